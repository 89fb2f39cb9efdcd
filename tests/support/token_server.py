"""Gives out tokens for a registry, as the distribution project's token specification says."""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

SERVICE, ISSUER = "registry.test", "tests"


class TokenServer(http.server.ThreadingHTTPServer):
    """Anyone may pull public/*; the rest is for `login` (USER:PASSWORD)."""

    daemon_threads = True

    def __init__(self, folder: Path, login: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.login = f"Basic {base64.b64encode(login.encode()).decode()}"
        self.given = 0
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, ISSUER)])
        now = datetime.datetime.now(datetime.UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(1)
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .sign(self._key, hashes.SHA256())
        )
        self._bundle = folder / "token.pem"
        self._bundle.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    @property
    def auth(self) -> dict[str, Any]:
        """For the registry's configuration."""
        return {
            "token": {
                "realm": f"http://127.0.0.1:{self.server_port}/token",
                "service": SERVICE,
                "issuer": ISSUER,
                "rootcertbundle": str(self._bundle),
            }
        }

    def token(self, scopes: list[str], authorization: str | None) -> str:
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            if authorization == self.login or name.startswith("public/"):
                access.append({"type": kind, "name": name, "actions": actions.split(",")})
        certificate = self._certificate.public_bytes(serialization.Encoding.DER)
        header = {
            "typ": "JWT",
            "alg": "RS256",
            "x5c": [base64.b64encode(certificate).decode()],
        }
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": "", "aud": SERVICE, "access": access, "jti": "1"}
        claims |= {"exp": now + 300, "nbf": now - 10, "iat": now}
        signed = f"{_encode(header)}.{_encode(claims)}"
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: TokenServer

    def do_GET(self) -> None:
        authorization = self.headers.get("Authorization")
        scopes = parse_qs(urlsplit(self.path).query).get("scope", [])
        allowed = authorization in (None, self.server.login)
        body = json.dumps({"token": self.server.token(scopes, authorization)}) if allowed else "{}"
        self.server.given += allowed
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


def _encode(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@contextlib.contextmanager
def token_server(folder: Path, login: str) -> Iterator[TokenServer]:
    server = TokenServer(folder, login)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

"""Reads manifests and blobs from an OCI registry, as the distribution specification says.

The oras client for Python is not used for this: it has no ranges to go on with, answers neither a
Basic challenge nor DOCKER_CONFIG, and repeats a refused request for two minutes.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import structlog

from ..errors import BrokenTransferError, ModelError, UnreachableError
from .http import answers_up_to, guard, reason

log = structlog.get_logger()

_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_LARGEST_MANIFEST = 4 << 20  # bytes; what the specification lets registries refuse
_LARGEST_TOKEN = 1 << 20
_CHUNK = 1 << 20


class Registry:
    """One repository of one registry."""

    def __init__(self, host: str, repository: str) -> None:
        scheme = "http" if _is_plain(host) else "https"
        self._repository = repository
        self._client = guard(
            httpx2.Client(
                base_url=f"{scheme}://{host}/v2/{repository}",
                auth=_Login(find_login(f"{host}/{repository}"), scheme),
                timeout=httpx2.Timeout(60.0, connect=10.0),
                follow_redirects=True,  # to where the blobs are; httpx leaves the login behind
            )
        )

    def manifest(self, reference: str) -> tuple[str, dict[str, Any]]:
        """Its digest, which is checked, and what it says. `reference`: a tag or a digest."""
        with _our_errors(), answers_up_to(_LARGEST_MANIFEST):
            answer = self._client.get(
                f"/manifests/{reference}", headers={"Accept": ", ".join(_MANIFESTS)}
            )
        _check(answer)
        digest = f"sha256:{hashlib.sha256(answer.content).hexdigest()}"
        if ":" in reference and reference != digest:
            raise ModelError(f"expected the manifest {reference}, found another")
        try:
            manifest = json.loads(answer.content)
        except (ValueError, RecursionError) as error:
            raise ModelError("the registry's manifest is not JSON") from error
        if not isinstance(manifest, dict):
            raise ModelError("expected a manifest of an OCI artifact, found something else")
        return digest, manifest

    def blob(self, digest: str, offset: int) -> Iterator[bytes]:
        """Its bytes from an offset on, as many as there are: the caller counts them.

        BrokenTransferError where going on later may help.
        """
        request = self._client.build_request(
            "GET", f"/blobs/{digest}", headers={"Range": f"bytes={offset}-"}
        )
        with _our_errors(mid_file=True):
            with answers_up_to(None):
                answer = self._client.send(request, stream=True)
            with contextlib.closing(answer):
                _check(answer)
                skip = offset if answer.status_code != httpx2.codes.PARTIAL_CONTENT else 0
                for chunk in answer.iter_raw(_CHUNK):
                    yield chunk[skip:]
                    skip = max(0, skip - len(chunk))


class _Login(httpx2.Auth):
    """Answers the registry's challenge, and repeats the answer with each later request."""

    def __init__(self, login: str | None, scheme: str) -> None:
        self._login = login  # base64 of USER:PASSWORD
        self._scheme = scheme
        self._said: str | None = None

    def auth_flow(
        self, request: httpx2.Request
    ) -> Generator[httpx2.Request, httpx2.Response, None]:
        if self._said:
            request.headers["Authorization"] = self._said
        answer = yield request
        if answer.status_code != httpx2.codes.UNAUTHORIZED:
            return
        kind, _, rest = answer.headers.get("WWW-Authenticate", "").partition(" ")
        if kind.lower() == "basic" and self._login:
            self._said = f"Basic {self._login}"
        elif kind.lower() == "bearer":
            token = yield from self._ask_for_token(dict(re.findall(r'(\w+)="([^"]*)"', rest)))
            if token is None:
                return
            self._said = f"Bearer {token}"
        else:
            return
        request.headers["Authorization"] = self._said
        yield request

    def _ask_for_token(
        self, challenge: dict[str, str]
    ) -> Generator[httpx2.Request, httpx2.Response, str | None]:
        realm = challenge.get("realm", "")
        if not realm.startswith(("https://", f"{self._scheme}://")):
            return None  # a password never leaves an encrypted connection for a plain one
        headers = {"Authorization": f"Basic {self._login}"} if self._login else {}
        asked = {name: said for name, said in challenge.items() if name in ("service", "scope")}
        with answers_up_to(_LARGEST_TOKEN):
            answer = yield httpx2.Request("GET", realm, params=asked, headers=headers)
            answer.read()
        if answer.is_error:
            return None
        with contextlib.suppress(ValueError, KeyError, AttributeError):
            told = answer.json()
            return str(told.get("token") or told["access_token"])
        return None


def find_login(repository: str) -> str | None:
    """Base64 of USER:PASSWORD for HOST/REPOSITORY, from docker configs: the most exact entry.

    They are the pod's pull secrets (MODELFLEET_PULL_SECRETS: a folder of *.json),
    REGISTRY_AUTH_FILE, and config.json in DOCKER_CONFIG. Credential helpers are not asked.
    """
    found: dict[str, str] = {}
    for path in _configs():
        with contextlib.suppress(OSError):
            try:
                found = _read_logins(path) | found
            except (ValueError, TypeError, AttributeError) as error:
                log.warning("not a docker config", path=str(path), error=type(error).__name__)
    matching = [p for p in found if f"{repository}/".startswith(f"{p}/")]
    return found[max(matching, key=len)] if matching else None


def _configs() -> Iterator[Path]:
    if folder := os.environ.get("MODELFLEET_PULL_SECRETS"):
        yield from sorted(Path(folder).glob("*.json"))
    if file := os.environ.get("REGISTRY_AUTH_FILE"):
        yield Path(file)
    yield Path(os.environ.get("DOCKER_CONFIG") or "~/.docker").expanduser() / "config.json"


def _read_logins(path: Path) -> dict[str, str]:
    logins = {}
    for name, entry in (json.loads(path.read_bytes()).get("auths") or {}).items():
        login = entry.get("auth")
        if not login and "username" in entry:
            plain = f"{entry['username']}:{entry.get('password', '')}"
            login = base64.b64encode(plain.encode()).decode()
        if login:
            # Docker's own spelling may be https://HOST/v1/.
            host = re.sub("^https?://|/v[12]/?$", "", name).rstrip("/")
            logins[host] = login
    return logins


def _is_plain(host: str) -> bool:
    """Whether it is spoken to without TLS: this machine's registries, and those configured so."""
    said = os.environ.get("MODELFLEET_INSECURE_REGISTRIES", "").split(",")
    name = host.rpartition(":")[0] or host
    return host in {s.strip() for s in said} or name in ("localhost", "127.0.0.1", "[::1]")


def _check(answer: httpx2.Response) -> None:
    if not answer.is_error:
        return
    if answer.status_code in (httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN):
        raise ModelError(
            f"the registry refuses (HTTP {answer.status_code}): name a pull secret for it in "
            "spec.podTemplate (or `docker login`)"
        )
    if answer.status_code == httpx2.codes.NOT_FOUND:
        raise ModelError("it is not in the registry: check the repository and its tag or digest")
    if answer.status_code >= httpx2.codes.INTERNAL_SERVER_ERROR:
        raise BrokenTransferError(f"the registry answers HTTP {answer.status_code}")
    raise ModelError(f"the registry answers HTTP {answer.status_code}")


@contextlib.contextmanager
def _our_errors(*, mid_file: bool = False) -> Iterator[None]:
    try:
        yield
    except httpx2.TransportError as error:
        if mid_file:
            raise BrokenTransferError(reason(error)) from error
        raise UnreachableError(f"the registry cannot be reached ({reason(error)})") from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise ModelError(f"the registry answers strangely ({type(error).__name__})") from error

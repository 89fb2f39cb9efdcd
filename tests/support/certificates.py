"""Authorities and certificates as the operator makes them, and a server that issues them."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from modelfleet_gateway.options import DoorCertificate
from modelfleet_operator.decisions.authorities import Lifetimes
from modelfleet_operator.errors import RejectedError
from modelfleet_operator.fleet.authority import Authorities, Authority, new_authority
from modelfleet_operator.fleet.issuing import CertificatesService, Issuing
from modelfleet_proto import certificates_pb2_grpc
from modelfleet_proto.mtls.credentials import Certificate, Credentials
from modelfleet_proto.mtls.keys import key_pem, new_key
from modelfleet_proto.mtls.names import Identity, Role

LIFETIMES = Lifetimes()
OPERATOR = Identity(role=Role.OPERATOR, namespace="modelfleet-system", pod="operator-0")
GATEWAY = Identity(role=Role.GATEWAY, namespace="modelfleet-system", pod="gw-1", uid="uid-gw-1")
WORKER = Identity(role=Role.WORKER, namespace="default", pod="tiny-a-0", uid="uid-a-0")


def authority() -> Authority:
    return new_authority(time.time(), LIFETIMES)


def certificate(
    signer: Authority, identity: Identity, *, trusts: bytes = b"", lifetime: float = 3600.0
) -> Certificate:
    """`lifetime` in seconds; below zero it has expired."""
    key, now = new_key(), time.time()
    chain = signer.sign(key.public_key(), identity, now, lifetime)
    return Certificate(
        key=key_pem(key),
        chain=chain,
        authorities=trusts or signer.certificate,
        expires_at=now + lifetime,
    )


def credentials(
    signer: Authority, identity: Identity, *, trusts: bytes = b"", lifetime: float = 3600.0
) -> Credentials:
    made = Credentials()
    made.put(certificate(signer, identity, trusts=trusts, lifetime=lifetime))
    return made


@dataclass
class IssuerDouble:
    """The operator's Certificates service, for whoever has one of these tokens."""

    issuing: Issuing
    address: str
    tokens: dict[str, Identity] = field(default_factory=dict)
    service: CertificatesService | None = None
    asked: list[str] = field(default_factory=list)  # tokens, in order

    async def whose(self, token: str) -> Identity:
        self.asked.append(token)
        if token not in self.tokens:
            raise RejectedError("it is no pod's")
        return self.tokens[token]

    def token_file(self, folder: Path, identity: Identity) -> Path:
        """As the kubelet writes it."""
        self.tokens[identity.uri] = identity
        file = folder / f"token-{identity.pod}"
        file.write_text(identity.uri)
        return file

    def rotate(self, *authorities: Authority) -> None:
        """The operator has these from now on."""
        self.issuing.know(Authorities(authorities), OPERATOR)


@contextlib.asynccontextmanager
async def issuer(
    *authorities: Authority,
    lifetimes: Lifetimes = LIFETIMES,
    accepts_plaintext: bool = False,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[IssuerDouble]:
    issuing = Issuing(lifetimes, clock)
    issuing.know(Authorities(authorities or (authority(),)), OPERATOR)
    double = IssuerDouble(issuing, "")
    server = grpc.aio.server()
    service = CertificatesService(
        issuing, double.whose, lifetimes, accepts_plaintext=accepts_plaintext
    )
    certificates_pb2_grpc.add_CertificatesServicer_to_server(service, server)
    port = server.add_secure_port(
        "127.0.0.1:0", issuing.credentials.server(asks_for_certificate=False)
    )
    double.address, double.service = f"127.0.0.1:{port}", service
    await server.start()
    try:
        yield double
    finally:
        await server.stop(0)


def self_signed(folder: Path, name: str) -> DoorCertificate:
    """A certificate for this machine that signs itself; `name` tells it from others."""
    key, now = new_key(), datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    here = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([here]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = DoorCertificate(certificate=folder / "tls.crt", key=folder / "tls.key")
    files.key.write_bytes(key_pem(key))
    files.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    return files

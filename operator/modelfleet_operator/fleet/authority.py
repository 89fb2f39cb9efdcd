"""Certificate authorities: made, written down, and what they sign."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from modelfleet_proto.mtls.keys import key_pem, new_key
from modelfleet_proto.mtls.names import Identity

from ..decisions.authorities import AuthorityAge, Lifetimes, decide_authorities

SKEW = 300.0  # seconds that the clocks of two nodes may differ
LARGEST_REQUEST = 16 * 1024  # bytes


class BadRequestError(ValueError):
    """What should be a request for a certificate, and is not; the message says why."""


@dataclass(frozen=True, slots=True)
class Authority:
    """PEM of both."""

    certificate: bytes
    key: bytes

    @property
    def age(self) -> AuthorityAge:
        """As decisions read it."""
        found = x509.load_pem_x509_certificate(self.certificate)
        return AuthorityAge(
            made_at=found.not_valid_before_utc.timestamp() + SKEW,
            expires_at=found.not_valid_after_utc.timestamp(),
        )

    def sign(self, public: object, identity: Identity, now: float, lifetime: float) -> bytes:
        """A certificate for a server and a client at once, as PEM."""
        parent = x509.load_pem_x509_certificate(self.certificate)
        key = _read_key(self.key)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_common_name(identity.role.value))
            .issuer_name(parent.subject)
            .public_key(_checked(public))
            .serial_number(x509.random_serial_number())
            .not_valid_before(_time(now - SKEW))
            .not_valid_after(_time(now + lifetime))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            .add_extension(
                x509.SubjectAlternativeName(
                    [
                        x509.DNSName(identity.server_name),
                        x509.UniformResourceIdentifier(identity.uri),
                    ]
                ),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()),
                critical=False,
            )
        )
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True, slots=True)
class Authorities:
    """All that an installation has, in the order in which they were made."""

    each: tuple[Authority, ...]

    @property
    def bundle(self) -> bytes:
        """PEM: whose certificates are trusted."""
        return b"".join(authority.certificate for authority in self.each)

    def signer(self, now: float, lifetimes: Lifetimes) -> Authority | None:
        """That signs now; None: all have expired."""
        decision = decide_authorities([a.age for a in self.each], now, lifetimes)
        return None if decision.signer is None else self.each[decision.signer]

    def kept_up(self, now: float, lifetimes: Lifetimes) -> Authorities:
        """As they should be now: without those that are over, with a new one if it is time."""
        decision = decide_authorities([a.age for a in self.each], now, lifetimes)
        kept = tuple(self.each[place] for place in decision.keep)
        return Authorities((*kept, new_authority(now, lifetimes)) if decision.makes_new else kept)

    def to_json(self) -> str:
        """With the keys: for a Secret."""
        return json.dumps(
            [{"certificate": a.certificate.decode(), "key": a.key.decode()} for a in self.each]
        )


def read_authorities(text: str) -> Authorities:
    """ValueError for what `to_json` did not write."""
    try:
        found = json.loads(text)
        if not isinstance(found, list):
            raise TypeError
        each = tuple(Authority(a["certificate"].encode(), a["key"].encode()) for a in found)
        for authority in each:
            _ = authority.age, _read_key(authority.key)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("expected a list of certificates with their keys") from error
    return Authorities(each)


def new_authority(now: float, lifetimes: Lifetimes) -> Authority:
    """It signs leaves only: no authority below it."""
    key = new_key()
    serial = x509.random_serial_number()
    # Names differ, so that a verifier with several finds the right one.
    name = _common_name(f"Modelfleet {serial:x}"[:60])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(_time(now - SKEW))
        .not_valid_after(_time(now + lifetimes.authority))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    signed = builder.sign(key, hashes.SHA256())
    return Authority(signed.public_bytes(serialization.Encoding.PEM), key_pem(key))


def requested_key(request: bytes) -> object:
    """The public key of a PKCS #10 request whose sender has the key. BadRequestError."""
    if len(request) > LARGEST_REQUEST:
        raise BadRequestError(f"expected at most {LARGEST_REQUEST} bytes, found {len(request)}")
    try:
        found = x509.load_pem_x509_csr(request)
        if not found.is_signature_valid:
            raise BadRequestError("its signature is not by the key that it names")
        return _checked(found.public_key())
    except (InvalidSignature, UnsupportedAlgorithm, ValueError) as error:
        raise BadRequestError(str(error) or "it cannot be read") from error


def _checked(public: object) -> ec.EllipticCurvePublicKey:
    if isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1):
        return public
    raise BadRequestError("expected a key on the curve P-256")


def _read_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("expected an elliptic curve's key")
    return key


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)

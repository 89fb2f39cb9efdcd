"""Keys, and requests for certificates. Imports cryptography: only where TLS is on."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def new_key() -> ec.EllipticCurvePrivateKey:
    """P-256: a handshake costs a tenth of RSA's."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """As gRPC takes it."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def signing_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #10 as PEM. It shows that the caller has the key; the operator says the names."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    signed = request.sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def expiry(chain: bytes) -> float:
    """When the first certificate of a PEM chain expires, Unix seconds."""
    return x509.load_pem_x509_certificate(chain).not_valid_after_utc.timestamp()

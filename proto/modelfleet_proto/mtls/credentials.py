"""One process's certificate, as gRPC's servers and channels take it; it is replaced in place."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import grpc


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """All PEM."""

    key: bytes
    chain: bytes  # its own certificate first
    authorities: bytes  # whose certificates it trusts
    expires_at: float  # Unix seconds


class Credentials:
    """Empty until the first `put`. Connections that exist live on with what they began with."""

    def __init__(self) -> None:
        self._ready = asyncio.Event()
        self._certificate: Certificate | None = None
        self._channel: grpc.ChannelCredentials | None = None
        self._server: grpc.ServerCertificateConfiguration | None = None
        self.version = 0  # grows with each certificate: a channel of an older one is made anew
        self.accepts_plaintext = False  # as the operator said last

    @property
    def certificate(self) -> Certificate | None:
        """The latest; None: there is none yet."""
        return self._certificate

    @property
    def expires_at(self) -> float:
        """Unix seconds; 0: there is none yet."""
        return self._certificate.expires_at if self._certificate else 0.0

    def put(self, certificate: Certificate) -> None:
        """For all connections from now on."""
        self._certificate = certificate
        self._channel = grpc.ssl_channel_credentials(
            certificate.authorities, certificate.key, certificate.chain
        )
        self._server = grpc.ssl_server_certificate_configuration(
            [(certificate.key, certificate.chain)], certificate.authorities
        )
        self.version += 1
        self._ready.set()

    async def wait(self) -> None:
        """Until there is a certificate."""
        await self._ready.wait()

    @property
    def channel(self) -> grpc.ChannelCredentials:
        """For a new channel. RuntimeError before `wait` returned."""
        if self._channel is None:
            raise RuntimeError("there is no certificate yet")
        return self._channel

    def server(self, *, asks_for_certificate: bool = True) -> grpc.ServerCredentials:
        """For a server: each handshake takes the latest. RuntimeError before `wait` returned.

        A caller without a certificate of the authorities is refused, unless none is asked for.
        """
        return grpc.dynamic_ssl_server_credentials(
            self._latest(), self._latest, require_client_authentication=asks_for_certificate
        )

    def _latest(self) -> grpc.ServerCertificateConfiguration:
        if self._server is None:
            raise RuntimeError("there is no certificate yet")
        return self._server


def target(server_name: str) -> tuple[str, str]:
    """A channel's option: the certificate must be of this name, whatever address is dialled."""
    return "grpc.ssl_target_name_override", server_name

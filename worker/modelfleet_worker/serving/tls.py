"""The port on which callers need a certificate, and what they may call there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog

from modelfleet_proto import worker_pb2_grpc
from modelfleet_proto.handshake import VersionInterceptor
from modelfleet_proto.mtls.access import RoleInterceptor, Rules
from modelfleet_proto.mtls.credentials import Credentials
from modelfleet_proto.mtls.names import Role
from modelfleet_proto.mtls.renewal import Issuer, Renewal

from ..errors import UsageError

_SERVICE = "/modelfleet.v1alpha1.Worker/"
_GATEWAYS = ("Generate", "GenerateMany", "Tokenize", "Detokenize", "Embed")
_OPERATORS = ("LoadModel", "UnloadModel", "Drain")
_BOTH = ("GetStats", "WatchStats")
RULES: Rules = {
    **{_SERVICE + name: {Role.GATEWAY} for name in _GATEWAYS},
    **{_SERVICE + name: {Role.OPERATOR} for name in _OPERATORS},
    **{_SERVICE + name: {Role.GATEWAY, Role.OPERATOR} for name in _BOTH},
}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """How a worker gets its certificate, and where it takes callers that have one."""

    listen: str  # HOST:PORT
    issuer: str  # HOST:PORT of the operator's Certificates service
    token_file: Path  # of the pod's ServiceAccount
    authorities: bytes  # PEM: whose certificate the operator must have


def tls_options(
    listen: str, issuer: str, authorities: str, token_file: Path | None
) -> TlsOptions | None:
    """The command line's; None: no TLS. UsageError where one is missing."""
    if not issuer:
        return None
    if token_file is None or not authorities:
        raise UsageError("--tls-issuer: give --tls-authorities and --tls-token, too")
    return TlsOptions(
        listen=listen, issuer=issuer, token_file=token_file, authorities=authorities.encode()
    )


class TlsPort:
    """Opens with the first certificate; each handshake takes the latest."""

    def __init__(self, options: TlsOptions, server_options: Sequence[tuple[str, Any]]) -> None:
        self._options = options
        self._server_options = server_options
        self._server: grpc.aio.Server | None = None
        self.credentials = Credentials()

    async def run(self, service: worker_pb2_grpc.WorkerServicer) -> None:
        """Until it is cancelled."""
        options = self._options
        issuer = Issuer(
            address=options.issuer,
            token_file=options.token_file,
            authorities=lambda: options.authorities,
        )
        renewing = asyncio.create_task(Renewal("worker", issuer, self.credentials).run())
        try:
            await self.credentials.wait()
            await self._open(service)
            await renewing
        finally:
            renewing.cancel()

    async def _open(self, service: worker_pb2_grpc.WorkerServicer) -> None:
        server = grpc.aio.server(
            interceptors=[VersionInterceptor("worker"), RoleInterceptor(RULES)],
            options=self._server_options,
        )
        worker_pb2_grpc.add_WorkerServicer_to_server(service, server)
        try:
            server.add_secure_port(self._options.listen, self.credentials.server())
        except RuntimeError:
            log.error("cannot listen with TLS: is the port taken?", address=self._options.listen)
            raise
        await server.start()
        self._server = server
        valid_for = round(self.credentials.expires_at - time.time())
        log.info("listening with TLS", address=self._options.listen, valid_for=valid_for)

    async def stop(self, grace: float) -> None:
        """Ends all calls."""
        if self._server is not None:
            await self._server.stop(grace)

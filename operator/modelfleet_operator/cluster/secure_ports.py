"""The operator's ports with TLS, and the authorities behind them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import NoReturn

import grpc
import structlog
from kubernetes.aio import client

from modelfleet_process.addresses import split_address
from modelfleet_proto import certificates_pb2_grpc
from modelfleet_proto.handshake import VersionInterceptor
from modelfleet_proto.mtls.names import Identity, Role

from ..errors import StartError
from ..fleet.issuing import CertificatesService, Issuing
from ..fleet.service import FleetService, serve
from .authority_store import AuthorityStore
from .options import OperatorOptions, TlsOptions
from .token_review import TokenReviews

GRACE = 2.0  # seconds that calls get when the operator ends
MOST_CALLS = 64  # for certificates at once; whoever is refused tries again

log = structlog.get_logger()


class SecurePorts:
    """One replica's. Both ports open with the first authority, which the leader makes."""

    def __init__(
        self,
        options: OperatorOptions,
        tls: TlsOptions,
        issuing: Issuing,
        leads: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._options = options
        self._tls = tls
        self._issuing = issuing
        self._leads = leads
        self._clock = clock
        self._servers: list[grpc.aio.Server] = []

    async def run(
        self, writer: client.ApiClient, reviewer: client.ApiClient, fleet: FleetService
    ) -> NoReturn:
        """Until it is cancelled. StartError if it cannot listen.

        `writer` changes nothing unless this replica leads; `reviewer` asks whose a token is.
        """
        options, tls = self._options, self._tls
        _, fleet.secure_port = split_address(tls.fleet_listen)
        store = AuthorityStore(
            writer,
            self._issuing,
            tls.lifetimes,
            namespace=options.lease_namespace,
            name=tls.objects,
            itself=Identity(
                role=Role.OPERATOR, namespace=options.lease_namespace, pod=socket.gethostname()
            ),
            leads=self._leads,
            clock=self._clock,
        )
        keeping = asyncio.create_task(store.run())
        waiting = asyncio.create_task(self._issuing.credentials.wait())
        try:
            await asyncio.wait([keeping, waiting], return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                reviews = TokenReviews(reviewer, tls.gateway_account, options.namespaces)
                await self._open(fleet, reviews)
            await keeping
        finally:
            waiting.cancel()
            keeping.cancel()
            await asyncio.gather(keeping, waiting, return_exceptions=True)
            await asyncio.gather(*(server.stop(GRACE) for server in self._servers))
        raise AssertionError("the authorities are kept until this is cancelled")

    async def _open(self, fleet: FleetService, reviews: TokenReviews) -> None:
        tls, credentials = self._tls, self._issuing.credentials
        service = CertificatesService(
            self._issuing, reviews.whose, tls.lifetimes, accepts_plaintext=tls.accepts_plaintext
        )
        issuer = grpc.aio.server(
            interceptors=[VersionInterceptor("operator")],
            # Each asks the API server whose a token is: strangers may not have it asked for ever.
            maximum_concurrent_rpcs=MOST_CALLS,
        )
        certificates_pb2_grpc.add_CertificatesServicer_to_server(service, issuer)
        try:
            server, _ = await serve(fleet, tls.fleet_listen, credentials)
            self._servers.append(server)
            # Its callers have no certificate yet: they show a token.
            issuer.add_secure_port(
                tls.issuer_listen, credentials.server(asks_for_certificate=False)
            )
        except RuntimeError as error:
            raise StartError(
                f"expected to listen on {tls.fleet_listen} and {tls.issuer_listen}: are the ports "
                f"taken? ({error})"
            ) from error
        await issuer.start()
        self._servers.append(issuer)
        log.info("serving with TLS", fleet=tls.fleet_listen, certificates=tls.issuer_listen)

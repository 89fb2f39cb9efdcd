"""The Fleet service: gateways push signals, the operator pushes the view.

Workers are seen through gateways only: what is reachable is what gateways can reach.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

import grpc

from modelfleet_proto import fleet_pb2, fleet_pb2_grpc
from modelfleet_proto.handshake import VersionInterceptor

from ..decisions.observed import Signals, WorkerStats
from ..decisions.view import ModelView
from .signals import GatewayStream, worker_stats
from .view import FleetView

SILENCE = 5.0  # seconds without a message after which a gateway does not count
PAUSE = 0.02  # seconds between messages to a gateway: changes of one moment share one message
HEARTBEAT = 2.0  # seconds without another message after which a heartbeat is sent
OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 5000),
    # grpcio 1.85.1 ignores a keepalive timeout below this one, whose default is a minute
    # (findings/grpc-keepalive-timeout.sh, grpc/grpc#39239).
    ("grpc.http2.ping_timeout_ms", 5000),
    ("grpc.http2.max_ping_strikes", 0),  # no GOAWAY too_many_pings: gateways ping every 5 s
    ("grpc.so_reuseport", 0),  # a port in use is an error; it is not shared
]


class FleetService(fleet_pb2_grpc.FleetServicer):
    """Follows (answers with the leader's address) until `lead` is called.

    All methods belong to one event loop. `wake` is called with a model's name when gateways say
    something new about it, `wake_all` when a gateway comes or goes.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        wake: Callable[[str], None],
        wake_all: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._wake = wake
        self._wake_all = wake_all
        self._view = FleetView()
        self._leader: str | None = ""
        self._has_ended = False
        self._unpublished: set[str] = set()
        self._gateways: dict[str, GatewayStream] = {}

    def lead(self, term: int, models: Collection[str]) -> None:
        """Serves views of this term, once all these models were published or withdrawn.

        An earlier view would tell gateways that the others do not exist.
        """
        self._leader = None
        self._unpublished = set(models)
        self._view = FleetView(term)
        for gateway in self._gateways.values():
            gateway.sent = None
        self._tell_gateways()

    def follow(self, leader: str) -> None:
        """Sends gateways to the leader's address; empty: there is no leader yet, they wait."""
        if leader != self._leader:
            self._leader = leader
            self._tell_gateways()

    def end(self) -> None:
        """Ends every stream: gateways search for the next leader at once."""
        self._has_ended = True
        self._tell_gateways()

    def publish(self, view: ModelView) -> None:
        """Puts a model into the view; gateways hear of it if it changed."""
        if self._view.put(view) or view.model in self._unpublished:
            self._changed(view.model)

    def withdraw(self, model: str) -> None:
        """Takes a model out of the view."""
        published = self._view.model(model)
        for gateway in self._gateways.values():
            gateway.forget(model, published.workers if published else ())
        self._view.drop(model)
        self._changed(model)

    def signals(self, model: str) -> Signals:
        """What the connected gateways say about a model now; silent ones are left out."""
        now, view = self._clock(), self._view
        published = view.model(model)
        workers = published.workers if published else ()
        gateways = sorted(
            (g for g in self._gateways.values() if now - g.heard_at <= SILENCE), key=lambda g: g.id
        )
        stats: dict[str, WorkerStats] = {}
        for gateway in sorted(gateways, key=lambda g: g.heard_at):
            for worker in workers:
                said = gateway.said_of(model, worker, view)
                if said is not None and said.HasField("stats"):
                    stats[worker.id] = worker_stats(said.stats)
        reports = tuple(gateway.report(model, workers, view) for gateway in gateways)
        return Signals(gateways=reports, stats=stats)

    async def Connect(  # noqa: N802  gRPC's name
        self, request_iterator: Any, context: Any
    ) -> AsyncIterator[fleet_pb2.OperatorMessage]:
        """Receives signals and sends views until either side ends the stream."""
        first = await anext(aiter(request_iterator), None)
        if first is None or not first.hello.gateway_id:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "expected hello with a gateway_id first"
            )
            return
        gateway = GatewayStream(
            id=first.hello.gateway_id,
            takes_changes=first.hello.takes_changes,
            heard_at=self._clock(),
        )
        self._gateways[gateway.id] = gateway
        self._wake_all()
        listening = asyncio.create_task(self._listen(gateway, request_iterator))
        listening.add_done_callback(lambda _: gateway.changed.set())
        minding = asyncio.create_task(self._mind_silence(gateway))
        try:
            while not (listening.done() or self._has_ended):
                gateway.changed.clear()  # before reading: what changes from here on is sent, too
                message = self._message(gateway)
                if message is not None:
                    yield message
                try:
                    async with asyncio.timeout(HEARTBEAT):
                        await gateway.changed.wait()
                except TimeoutError:
                    yield fleet_pb2.OperatorMessage()
                    continue
                await asyncio.sleep(PAUSE)
        finally:
            minding.cancel()
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError, grpc.RpcError):
                await listening
            if self._gateways.get(gateway.id) is gateway:
                del self._gateways[gateway.id]
            self._wake_all()

    async def _listen(
        self, gateway: GatewayStream, messages: AsyncIterator[fleet_pb2.GatewayMessage]
    ) -> None:
        async for message in messages:
            gateway.heard_at = self._clock()
            if gateway.is_silent:
                gateway.is_silent = False
                self._wake_all()
            if message.HasField("signals"):
                for model in gateway.take(message.signals, self._view):
                    self._wake(model)

    async def _mind_silence(self, gateway: GatewayStream) -> None:
        """Wakes every deployment when the gateway falls silent, since no message says so."""
        while True:
            await asyncio.sleep(SILENCE / 2)
            if not gateway.is_silent and self._clock() - gateway.heard_at > SILENCE:
                gateway.is_silent = True
                self._wake_all()

    def _changed(self, model: str) -> None:
        self._unpublished.discard(model)
        for gateway in self._gateways.values():
            gateway.digests.pop(model, None)  # its next signals are about another view
        self._tell_gateways()

    def _tell_gateways(self) -> None:
        for gateway in self._gateways.values():
            gateway.changed.set()

    def _message(self, gateway: GatewayStream) -> fleet_pb2.OperatorMessage | None:
        if self._leader:
            return fleet_pb2.OperatorMessage(redirect=fleet_pb2.Redirect(address=self._leader))
        view = self._view
        if self._leader is not None or self._unpublished or gateway.sent == view.version:
            return None
        sent, gateway.sent = gateway.sent, view.version
        change = view.change(sent) if gateway.takes_changes and sent is not None else None
        if change is not None:
            return fleet_pb2.OperatorMessage(change=change)
        return fleet_pb2.OperatorMessage(view=view.whole())


async def serve(fleet: FleetService, listen: str) -> tuple[grpc.aio.Server, int]:
    """Starts a server for it; returns the server and its port. RuntimeError if it cannot listen."""
    server = grpc.aio.server(interceptors=[VersionInterceptor("operator")], options=OPTIONS)
    fleet_pb2_grpc.add_FleetServicer_to_server(fleet, server)
    port = server.add_insecure_port(listen)
    await server.start()
    return server, port

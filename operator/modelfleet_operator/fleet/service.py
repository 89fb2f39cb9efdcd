"""The Fleet service: gateways push signals, the operator pushes the view.

Workers are seen through gateways only: what is reachable is what gateways can reach.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from typing import Any

import grpc
import structlog

from modelfleet_process.addresses import join_address, split_address
from modelfleet_proto import fleet_pb2, fleet_pb2_grpc
from modelfleet_proto.handshake import VersionInterceptor
from modelfleet_proto.mtls.access import RoleInterceptor, caller
from modelfleet_proto.mtls.credentials import Credentials
from modelfleet_proto.mtls.names import Role

from ..decisions.api_keys import ApiKey
from ..decisions.observed import GatewayReport, Signals, WorkerStats
from ..decisions.view import ModelView
from .keys import keys_message
from .limits import LimitShares
from .room import waiting_elsewhere
from .signals import GatewayStream
from .view import FleetView

SILENCE = 5.0  # seconds without a message after which a gateway does not count
PAUSE = 0.02  # seconds between messages to a gateway: changes of one moment share one message
LONGEST_ID = 253  # characters: as of a pod's name
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

# By the certificate of the caller, where there is TLS: no one else has a view to get.
RULES = {"/modelfleet.v1alpha1.Fleet/Connect": {Role.GATEWAY}}

log = structlog.get_logger()


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
        self.secure_port: int | None = None  # with TLS, of every replica; None: there is none
        self._has_ended = False
        self._unpublished: set[str] = set()
        self._keys: fleet_pb2.ApiKeys | None = None  # None: not known
        self.streams: list[GatewayStream] = []  # open ones, oldest first
        self._gateways: list[GatewayStream] = []  # of these the latest of each process
        self._limits = LimitShares()

    def lead(self, term: int, models: Collection[str]) -> None:
        """Serves views of this term, once all these models were published or withdrawn.

        An earlier view would tell gateways that the others do not exist.
        """
        self._leader = None
        self._unpublished = set(models)
        self._view = FleetView(term)
        if self._keys is not None:
            self._view.put_keys(self._keys)
        self._limits.begin(self._clock())
        for gateway in self.streams:
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

    def publish_keys(self, keys: Iterable[ApiKey], *, required: bool = False) -> None:
        """Tells gateways which API keys are valid; call it before `lead`, then on each change.

        `required`: also gateways that were not told to ask for one.
        """
        message = keys_message(keys, required=required)
        if message != self._keys:
            self._keys = message
            self._view.put_keys(message)
            self._tell_gateways()

    def publish(self, view: ModelView) -> None:
        """Puts a model into the view; gateways hear of it if it changed."""
        before = self._view.model(view.model)
        if self._view.put(view) or view.model in self._unpublished:
            self._forget_workers(before)
            self._changed(view.model)

    def withdraw(self, model: str) -> None:
        """Takes a model out of the view."""
        published = self._view.model(model)
        self._view.drop(model)
        self._forget_workers(published)
        for gateway in self.streams:
            gateway.forget(model)
        self._changed(model)

    def signals(self, model: str) -> Signals:
        """What the connected gateways say about a model now; silent ones are left out."""
        now, view = self._clock(), self._view
        gateways = sorted(
            (g for g in self._gateways if now - g.heard_at <= SILENCE), key=lambda g: g.id
        )
        stats: dict[str, WorkerStats] = {}
        for gateway in sorted(gateways, key=lambda g: g.heard_at):
            stats.update(gateway.stats(model, view))
        published = view.model(model)
        if published is None:
            reports = tuple(GatewayReport(gateway=g.id, heard=False) for g in gateways)
        else:
            reports = tuple(gateway.report(published, view) for gateway in gateways)
        return Signals(gateways=reports, stats=stats)

    async def Connect(  # noqa: N802  gRPC's name
        self, request_iterator: Any, context: Any
    ) -> AsyncIterator[fleet_pb2.OperatorMessage]:
        """Receives signals and sends views until either side ends the stream."""
        first = await anext(aiter(request_iterator), None)
        if first is None or not 0 < len(first.hello.gateway_id) <= LONGEST_ID:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"expected hello with a gateway_id of 1 to {LONGEST_ID} characters first",
            )
            return
        peer = caller(context)
        if peer is not None and peer.pod != first.hello.gateway_id:
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"the certificate is gateway {peer.pod}'s: it may not say hello as another",
            )
            return
        gateway = GatewayStream(
            id=first.hello.gateway_id,
            takes_changes=first.hello.takes_changes,
            heard_at=self._clock(),
            instance_id=first.hello.instance_id[:LONGEST_ID],
            is_secure=peer is not None,
        )
        self._begin(gateway)
        if gateway.instance_id and first.hello.HasField("limits"):
            self._limits.join(gateway.instance_id, gateway, first.hello.limits, self._clock())
        listening = asyncio.create_task(self._listen(gateway, request_iterator))
        listening.add_done_callback(lambda _: gateway.changed.set())
        minding = asyncio.create_task(self._mind_silence(gateway))
        try:
            while not (listening.done() or self._has_ended):
                gateway.changed.clear()  # before reading: what changes from here on is sent, too
                for message in (
                    self._shares(gateway),
                    self._message(gateway),
                    self._room(gateway),
                ):
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
            self.streams.remove(gateway)
            self._limits.leave(gateway.instance_id, gateway, self._clock())
            self._count_gateways()
            self._wake_all()

    def _begin(self, gateway: GatewayStream) -> None:
        others = [g for g in self.streams if g.id == gateway.id and not gateway.replaces(g)]
        if others:
            # Both count: the older one may hold requests, though the new one has its id.
            log.warning("two gateways have one id", id=gateway.id)
        self.streams.append(gateway)
        self._count_gateways()
        self._wake_all()

    def _count_gateways(self) -> None:
        streams = self.streams
        self._gateways = [
            stream
            for place, stream in enumerate(streams, 1)
            if not any(later.replaces(stream) for later in streams[place:])
        ]

    async def _listen(
        self, gateway: GatewayStream, messages: AsyncIterator[fleet_pb2.GatewayMessage]
    ) -> None:
        async for message in messages:
            gateway.heard_at = self._clock()
            if gateway.is_silent:
                gateway.is_silent = False
                self._wake_all()
            # A replica that sends gateways elsewhere keeps nothing of them.
            if message.HasField("signals") and not self._leader:
                for model in gateway.take(message.signals, self._view):
                    self._wake(model)
                if gateway.room.has_changed:
                    gateway.room.has_changed = False
                    for other in self._gateways:
                        if self._waiting_elsewhere(other) != other.room.told:
                            other.changed.set()
                if message.signals.HasField("limits"):
                    said, now = message.signals.limits, self._clock()
                    self._limits.take(gateway.instance_id, gateway, said, now)
                    self._tell_shares()

    async def _mind_silence(self, gateway: GatewayStream) -> None:
        """Wakes every deployment when the gateway falls silent, since no message says so."""
        while True:
            await asyncio.sleep(SILENCE / 2)
            if not gateway.is_silent and self._clock() - gateway.heard_at > SILENCE:
                gateway.is_silent = True
                self._wake_all()

    def _changed(self, model: str) -> None:
        self._unpublished.discard(model)
        for gateway in self.streams:
            gateway.digests.pop(model, None)  # its next signals are about another view
        self._tell_gateways()

    def _forget_workers(self, before: ModelView | None) -> None:
        """Of workers that left the view with a change of their model."""
        gone = [w for w in before.workers if not self._view.has_worker(w.id)] if before else ()
        if gone:
            for gateway in self.streams:
                gateway.forget_workers(gone)

    def _tell_gateways(self) -> None:
        for gateway in self.streams:
            gateway.changed.set()

    def _tell_shares(self) -> None:
        for stream in self._limits.with_news():
            if isinstance(stream, GatewayStream):
                stream.changed.set()

    def _shares(self, gateway: GatewayStream) -> fleet_pb2.OperatorMessage | None:
        if self._leader is not None:
            return None
        self._limits.mind(self._clock())
        self._tell_shares()
        shares = self._limits.message(gateway.instance_id, gateway)
        return fleet_pb2.OperatorMessage(shares=shares) if shares is not None else None

    def _waiting_elsewhere(self, gateway: GatewayStream) -> dict[str, int]:
        others = (other.room for other in self._gateways if other is not gateway)
        return waiting_elsewhere(gateway.room, others)

    def _room(self, gateway: GatewayStream) -> fleet_pb2.OperatorMessage | None:
        waiting = self._waiting_elsewhere(gateway)
        if self._leader is not None or waiting == gateway.room.told:
            return None
        gateway.room.told = waiting
        message = fleet_pb2.MakeRoom()
        for model, requests in waiting.items():
            message.models.add(model=model, requests=requests)
        return fleet_pb2.OperatorMessage(make_room=message)

    def _message(self, gateway: GatewayStream) -> fleet_pb2.OperatorMessage | None:
        if self._leader:
            leader = self._leader
            if gateway.is_secure and self.secure_port is not None:
                leader = join_address(split_address(leader)[0], self.secure_port)
            return fleet_pb2.OperatorMessage(redirect=fleet_pb2.Redirect(address=leader))
        view = self._view
        if self._leader is not None or self._unpublished or gateway.sent == view.version:
            return None
        sent, gateway.sent = gateway.sent, view.version
        if sent is None:
            gateway.begin(view)
        change = view.change(sent) if gateway.takes_changes and sent is not None else None
        if change is not None:
            return fleet_pb2.OperatorMessage(change=change)
        return fleet_pb2.OperatorMessage(view=view.whole())


async def serve(
    fleet: FleetService, listen: str, credentials: Credentials | None = None
) -> tuple[grpc.aio.Server, int]:
    """Starts a server for it; returns the server and its port. RuntimeError if it cannot listen.

    With credentials it has TLS, and serves only those whose certificate is a gateway's.
    """
    rules = [RoleInterceptor(RULES)] if credentials is not None else []
    server = grpc.aio.server(interceptors=[VersionInterceptor("operator"), *rules], options=OPTIONS)
    fleet_pb2_grpc.add_FleetServicer_to_server(fleet, server)
    if credentials is None:
        port = server.add_insecure_port(listen)
    else:
        port = server.add_secure_port(listen, credentials.server())
    await server.start()
    return server, port

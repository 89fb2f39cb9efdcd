"""The Fleet service: gateways push signals, the operator pushes the view.

Workers are seen through gateways only: what is reachable is what gateways can reach.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import grpc
import structlog

from modelfleet_proto import fleet_pb2, fleet_pb2_grpc, worker_pb2
from modelfleet_proto.handshake import VersionInterceptor

from .decisions.observed import GatewayReport, Signals, WorkerState, WorkerStats
from .decisions.plan import Route, WorkerRoute

SILENCE = 5.0  # seconds without a message after which a gateway does not count
OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),  # a port that somebody has is an error, not a share
]
_STATES = {
    worker_pb2.WORKER_STATE_STANDBY: WorkerState.STANDBY,
    worker_pb2.WORKER_STATE_LOADING: WorkerState.LOADING,
    worker_pb2.WORKER_STATE_READY: WorkerState.READY,
    worker_pb2.WORKER_STATE_DRAINING: WorkerState.DRAINING,
    worker_pb2.WORKER_STATE_FAILED: WorkerState.FAILED,
}

log = structlog.get_logger()


@dataclass(slots=True)
class _Gateway:
    """One open stream. A gateway that connects again replaces its older stream."""

    id: str
    heard_at: float
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # there is something to send
    signals: fleet_pb2.Signals | None = None
    models: dict[str, fleet_pb2.ModelSignals] = field(default_factory=dict)
    workers: dict[str, fleet_pb2.WorkerSignals] = field(default_factory=dict)

    def has(self, term: int, version: int) -> bool:
        """Whether the view in force there is this one or a newer one."""
        return self.signals is not None and (
            (self.signals.term, self.signals.version) >= (term, version)
        )


class Fleet(fleet_pb2_grpc.FleetServicer):
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
        self._term = 0
        self._version = 0
        self._leader: str | None = ""
        self._has_ended = False
        self._awaited: set[str] = set()
        self._routes: dict[str, Route] = {}
        self._known_since: dict[object, int] = {}  # model or worker -> version that brought it
        self._gateways: dict[str, _Gateway] = {}

    def lead(self, term: int, models: Collection[str]) -> None:
        """Serves views of this term, once all these models were published or withdrawn.

        An earlier view would tell gateways that the others do not exist.
        """
        self._leader, self._term, self._version = None, term, 0
        self._awaited = set(models)
        self._routes.clear()
        self._known_since.clear()
        self._view_changed()

    def follow(self, leader: str) -> None:
        """Sends gateways to the leader's address; empty: nobody leads yet, they wait."""
        if leader != self._leader:
            self._leader = leader
            self._view_changed()

    def end(self) -> None:
        """Ends every stream: gateways look for the next leader at once."""
        self._has_ended = True
        for gateway in self._gateways.values():
            gateway.changed.set()

    def publish(self, route: Route) -> None:
        """Puts a model into the view; gateways hear of it if it changed."""
        self._awaited.discard(route.model)
        if self._routes.get(route.model) != route:
            self._routes[route.model] = route
            self._view_changed()

    def withdraw(self, model: str) -> None:
        """Takes a model out of the view."""
        self._awaited.discard(model)
        self._routes.pop(model, None)
        self._view_changed()

    def signals(self, model: str) -> Signals:
        """What the connected gateways say about a model now; silent ones are left out."""
        now = self._clock()
        route = self._routes.get(model)
        workers = route.workers if route else ()
        gateways = sorted(
            (g for g in self._gateways.values() if now - g.heard_at <= SILENCE), key=lambda g: g.id
        )
        stats: dict[str, WorkerStats] = {}
        for gateway in sorted(gateways, key=lambda g: g.heard_at):
            for worker in workers:
                said = self._said_of(worker, gateway)
                if said is not None and said.HasField("stats"):
                    stats[worker.id] = _worker_stats(said.stats)
        reports = tuple(self._report(model, workers, gateway) for gateway in gateways)
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
        gateway = _Gateway(id=first.hello.gateway_id, heard_at=self._clock())
        self._gateways[gateway.id] = gateway
        self._wake_all()
        listening = asyncio.create_task(self._listen(gateway, request_iterator))
        listening.add_done_callback(lambda _: gateway.changed.set())
        try:
            while not (listening.done() or self._has_ended):
                gateway.changed.clear()  # before the look: what changes from here on is sent, too
                message = self._message()
                if message is not None:
                    yield message
                await gateway.changed.wait()
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError, grpc.RpcError):
                await listening
            if self._gateways.get(gateway.id) is gateway:
                del self._gateways[gateway.id]
            self._wake_all()

    async def _listen(
        self, gateway: _Gateway, messages: AsyncIterator[fleet_pb2.GatewayMessage]
    ) -> None:
        async for message in messages:
            gateway.heard_at = self._clock()
            if message.HasField("signals"):
                self._take(gateway, message.signals)

    def _take(self, gateway: _Gateway, signals: fleet_pb2.Signals) -> None:
        before = {model: self._digest(gateway, model) for model in self._routes}
        gateway.signals = signals
        gateway.models = {said.model: said for said in signals.models}
        gateway.workers = {said.worker_id: said for said in signals.workers}
        for model, digest in before.items():
            if self._digest(gateway, model) != digest:
                self._wake(model)

    def _digest(self, gateway: _Gateway, model: str) -> tuple[object, ...]:
        """What decisions read of one gateway's signals; counters and times change all the time."""
        workers = self._routes[model].workers
        report = self._report(model, workers, gateway)
        said = [self._said_of(worker, gateway) for worker in workers]
        return (
            report.heard,
            report.waiting,
            report.running,
            report.reachable,
            report.hears,
            tuple(sorted(report.taken.items())),
            report.awaited,
            tuple(_worker_stats(s.stats) for s in said if s is not None),
        )

    def _report(
        self, model: str, workers: tuple[WorkerRoute, ...], gateway: _Gateway
    ) -> GatewayReport:
        said = gateway.models.get(model)
        if said is None or not self._is_current(model, gateway):
            return GatewayReport(gateway=gateway.id, heard=False)
        heard = [
            (worker, told)
            for worker in workers
            if (told := self._said_of(worker, gateway)) is not None
        ]
        return GatewayReport(
            gateway=gateway.id,
            waiting=said.waiting,
            running=said.running,
            last_request=said.last_request,
            oldest_wait=said.oldest_wait,
            reachable=frozenset(
                worker.id
                for worker, told in heard
                if told.reachable and worker.routable is self._is_current(_routed(worker), gateway)
            ),
            hears=frozenset(worker.id for worker, told in heard if told.reachable),
            taken={worker.id: told.running for worker, told in heard if told.running},
            awaited=frozenset(said.awaited_revisions),
        )

    def _said_of(self, worker: WorkerRoute, gateway: _Gateway) -> fleet_pb2.WorkerSignals | None:
        """Nothing, if it may mean an earlier worker of the same name."""
        if not self._is_current((worker.id, worker.address), gateway):
            return None
        return gateway.workers.get(worker.id)

    def _is_current(self, what: object, gateway: _Gateway) -> bool:
        since = self._known_since.get(what)
        return since is not None and gateway.has(self._term, since)

    def _view_changed(self) -> None:
        self._version += 1
        workers = [worker for route in self._routes.values() for worker in route.workers]
        known: set[object] = set(self._routes)
        known |= {(worker.id, worker.address) for worker in workers}
        known |= {_routed(worker) for worker in workers}
        self._known_since = {what: self._known_since.get(what, self._version) for what in known}
        for gateway in self._gateways.values():
            gateway.changed.set()

    def _message(self) -> fleet_pb2.OperatorMessage | None:
        if self._leader:
            return fleet_pb2.OperatorMessage(redirect=fleet_pb2.Redirect(address=self._leader))
        if self._leader is not None or self._awaited:
            return None
        return fleet_pb2.OperatorMessage(
            view=fleet_pb2.View(
                term=self._term,
                version=self._version,
                models=[_model_route(route) for _, route in sorted(self._routes.items())],
            )
        )


async def serve(fleet: Fleet, listen: str) -> tuple[grpc.aio.Server, int]:
    """Starts a server for it; returns the server and its port. RuntimeError if it cannot listen."""
    server = grpc.aio.server(interceptors=[VersionInterceptor("operator")], options=OPTIONS)
    fleet_pb2_grpc.add_FleetServicer_to_server(fleet, server)
    port = server.add_insecure_port(listen)
    await server.start()
    return server, port


def _routed(worker: WorkerRoute) -> object:
    """What a gateway knows once it has the view in which the worker became routable, or not."""
    return worker.id, worker.address, worker.routable


def _model_route(route: Route) -> fleet_pb2.ModelRoute:
    return fleet_pb2.ModelRoute(
        model=route.model,
        served_names=route.served_names,
        max_queue=route.max_queue,
        hold_timeout=route.hold_timeout,
        created=route.created,
        eta=route.eta,
        phase=route.phase,
        revisions=route.revisions,
        workers=[
            fleet_pb2.WorkerRoute(
                worker_id=worker.id,
                address=worker.address,
                routable=worker.routable,
                revision=worker.revision,
            )
            for worker in route.workers
        ],
    )


def _worker_stats(stats: worker_pb2.Stats) -> WorkerStats:
    return WorkerStats(
        # A state that a newer worker may have is none in which it can be routed to.
        state=_STATES.get(stats.state, WorkerState.LOADING),
        message=stats.message,
        running=stats.running + stats.waiting,
        phase=stats.load.phase,
        percent=round(stats.load.percent),
        eta=round(stats.load.eta),
    )

"""One gateway's signals. They count only as far as the gateway has the view that they are about."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from modelfleet_proto import fleet_pb2, worker_pb2

from ..decisions.observed import GatewayReport, WorkerState, WorkerStats
from ..decisions.view import WorkerRoute
from .view import FleetView, identity, routability

_STATES = {
    worker_pb2.WORKER_STATE_STANDBY: WorkerState.STANDBY,
    worker_pb2.WORKER_STATE_LOADING: WorkerState.LOADING,
    worker_pb2.WORKER_STATE_READY: WorkerState.READY,
    worker_pb2.WORKER_STATE_DRAINING: WorkerState.DRAINING,
    worker_pb2.WORKER_STATE_FAILED: WorkerState.FAILED,
}


@dataclass(slots=True)
class GatewayStream:
    """One open stream. A gateway that connects again replaces its older stream."""

    id: str
    takes_changes: bool
    heard_at: float
    is_silent: bool = False
    sent: int | None = None  # version of the view that it was sent last; None: none of this term
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # there is something to send
    has: tuple[int, int] | None = None  # term and version in force there
    models: dict[str, fleet_pb2.ModelSignals] = field(default_factory=dict)
    workers: dict[str, fleet_pb2.WorkerSignals] = field(default_factory=dict)
    digests: dict[str, object] = field(default_factory=dict)  # of what decisions read, by model

    def take(self, signals: fleet_pb2.Signals, view: FleetView) -> Iterable[str]:
        """Notes what it says; returns the models of which decisions would read something new."""
        before, self.has = self.has, (signals.term, signals.version)
        if not signals.partial:
            self.models.clear()
            self.workers.clear()
        self.models.update((said.model, said) for said in signals.models)
        self.workers.update((said.worker_id, said) for said in signals.workers)
        concerned: Iterable[str] = view
        if signals.partial and before is not None and before[0] == view.term:
            concerned = {said.model for said in signals.models}
            if before[1] != signals.version:
                concerned = concerned.union(view.changed_since(before[1]))
        news = []
        for model in concerned:
            digest = self._digest(model, view)
            if digest is not None and self.digests.get(model) != digest:
                self.digests[model] = digest
                news.append(model)
        return news

    def forget(self, model: str, workers: Iterable[WorkerRoute]) -> None:
        """The model left the view."""
        self.digests.pop(model, None)
        self.models.pop(model, None)
        for worker in workers:
            self.workers.pop(worker.id, None)

    def said_of(
        self, model: str, worker: WorkerRoute, view: FleetView
    ) -> fleet_pb2.WorkerSignals | None:
        """None where the signal may be about an earlier worker of the same name."""
        if not self._knows(model, identity(worker), view):
            return None
        return self.workers.get(worker.id)

    def report(
        self, model: str, workers: tuple[WorkerRoute, ...], view: FleetView
    ) -> GatewayReport:
        """What decisions read of it."""
        said = self.models.get(model)
        if said is None or not self._knows(model, model, view):
            return GatewayReport(gateway=self.id, heard=False)
        heard = [
            (worker, told)
            for worker in workers
            if (told := self.said_of(model, worker, view)) is not None
        ]
        return GatewayReport(
            gateway=self.id,
            waiting=said.waiting,
            running=said.running,
            last_request=said.last_request,
            oldest_wait=said.oldest_wait,
            reachable=frozenset(
                worker.id
                for worker, told in heard
                if told.reachable
                and worker.routable is self._knows(model, routability(worker), view)
            ),
            hears=frozenset(worker.id for worker, told in heard if told.reachable),
            taken={worker.id: told.running for worker, told in heard if told.running},
            awaited_revisions=frozenset(said.awaited_revisions),
        )

    def _digest(self, model: str, view: FleetView) -> object:
        """What wakes a reconciler; counters and times change with every request and do not."""
        published = view.model(model)
        if published is None:
            return None
        report = self.report(model, published.workers, view)
        said = [self.said_of(model, worker, view) for worker in published.workers]
        return (
            report.heard,
            report.waiting,
            report.running,
            report.reachable,
            report.hears,
            tuple(sorted(report.taken.items())),
            report.awaited_revisions,
            tuple(worker_stats(s.stats) for s in said if s is not None),
        )

    def _knows(self, model: str, what: object, view: FleetView) -> bool:
        since = view.since(model, what)
        if since is None or self.has is None:
            return False
        term, version = self.has
        return term == view.term and version >= since


def worker_stats(stats: worker_pb2.Stats) -> WorkerStats:
    """What decisions read of a worker's Stats."""
    return WorkerStats(
        # A state that a newer worker may have is none in which it can be routed to.
        state=_STATES.get(stats.state, WorkerState.LOADING),
        message=stats.message,
        running=stats.running + stats.waiting,
        phase=stats.load.phase,
        percent=round(stats.load.percent),
        eta=round(stats.load.eta),
        computed_by=stats.computed_by,
    )

"""One gateway's signals. They count only as far as the gateway has the view that they are about."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from modelfleet_proto import fleet_pb2

from ..decisions.observed import GatewayReport, WorkerStats
from ..decisions.view import ModelView, WorkerRoute
from .room import Room
from .said import ModelSaid, WorkerSaid, most_requests, most_slots, read_model, read_worker
from .view import FleetView, identity, routability

# Of so many models and workers is kept what was said before there is a view.
MOST_UNKNOWN = 5_000
LONGEST_NAME = 400  # characters of NAMESPACE/NAME


@dataclass(slots=True, eq=False)
class GatewayStream:
    """One open stream. A stream of the same process replaces an older one."""

    id: str
    takes_changes: bool
    heard_at: float
    instance_id: str = ""  # of the gateway's process; empty: an older version
    is_secure: bool = False  # its connection has TLS, and its certificate names it
    is_silent: bool = False
    sent: int | None = None  # version of the view that it was sent last; None: none of this term
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # there is something to send
    has: tuple[int, int] | None = None  # term and version in force there
    models: dict[str, ModelSaid] = field(default_factory=dict)
    workers: dict[str, WorkerSaid] = field(default_factory=dict)
    digests: dict[str, object] = field(default_factory=dict)  # of what decisions read, by model
    room: Room = field(default_factory=Room)

    def replaces(self, older: GatewayStream) -> bool:
        """Whether both are of one process, which has one stream at a time."""
        same = (self.id, self.instance_id) == (older.id, older.instance_id)
        return same and bool(self.instance_id)

    def take(self, signals: fleet_pb2.Signals, view: FleetView) -> Iterable[str]:
        """Notes what it says; returns the models of which decisions would read something new.

        What is not in the view is dropped. Only before the first view it may be in it later.
        """
        before, self.has = self.has, (signals.term, signals.version)
        if not signals.partial:
            self.models.clear()
            self.workers.clear()
            self.room.forget_all()
        for said in signals.models:
            if view.model(said.model) or self._may_come(said.model, self.models):
                self.models[said.model] = read_model(said)
                self.room.take(said)
        for told in signals.workers:
            if view.has_worker(told.worker_id) or self._may_come(told.worker_id, self.workers):
                self.workers[told.worker_id] = read_worker(told)
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

    def _may_come(self, name: str, known: Collection[str]) -> bool:
        return self.sent is None and len(known) < MOST_UNKNOWN and len(name) <= LONGEST_NAME

    def begin(self, view: FleetView) -> None:
        """It is sent its first view of this term: what is not in it does not exist."""
        self.models = {name: said for name, said in self.models.items() if view.model(name)}
        self.workers = {name: said for name, said in self.workers.items() if view.has_worker(name)}

    def forget(self, model: str) -> None:
        """The model left the view."""
        self.digests.pop(model, None)
        self.models.pop(model, None)
        self.room.forget(model)

    def forget_workers(self, workers: Iterable[WorkerRoute]) -> None:
        """These left the view."""
        for worker in workers:
            self.workers.pop(worker.id, None)

    def said_of(self, model: str, worker: WorkerRoute, view: FleetView) -> WorkerSaid | None:
        """None where the signal may be about an earlier worker of the same name."""
        if not self._knows(model, identity(worker), view):
            return None
        return self.workers.get(worker.id)

    def stats(self, model: str, view: FleetView) -> Iterator[tuple[str, WorkerStats]]:
        """The latest Stats of each of the model's workers, by the worker's id."""
        published = view.model(model)
        for worker in published.workers if published else ():
            said = self.said_of(model, worker, view)
            if said is not None and said.stats is not None:
                yield worker.id, said.stats

    def report(self, published: ModelView, view: FleetView) -> GatewayReport:
        """What decisions read of it: no more than a gateway can hold of such a model."""
        model, workers = published.model, published.workers
        said = self.models.get(model)
        if said is None or not self._knows(model, model, view):
            return GatewayReport(gateway=self.id, heard=False)
        heard = [
            (worker, told)
            for worker in workers
            if (told := self.said_of(model, worker, view)) is not None
        ]
        running = sum(most_slots(self.workers.get(worker.id)) for worker in workers)
        return GatewayReport(
            gateway=self.id,
            waiting=min(said.waiting, most_requests(published.max_queue) + running),
            running=min(said.running, running),
            last_request=said.last_request,
            oldest_wait=said.oldest_wait,
            requests=said.requests,
            judged=said.judged,
            reachable=frozenset(
                worker.id
                for worker, told in heard
                if told.reachable
                and worker.routable is self._knows(model, routability(worker), view)
            ),
            hears=frozenset(worker.id for worker, told in heard if told.reachable),
            taken={
                worker.id: min(told.running, most_slots(told))
                for worker, told in heard
                if told.running
            },
            tls_problems={
                worker.id: told.tls_problem for worker, told in heard if told.tls_problem
            },
            awaited_revisions=said.awaited_revisions
            & {*published.revisions, *(worker.revision for worker in workers)},
        )

    def _digest(self, model: str, view: FleetView) -> object:
        """What wakes a reconciler; counters and times change with every request and do not."""
        published = view.model(model)
        if published is None:
            return None
        report = self.report(published, view)
        return (
            report.heard,
            report.waiting,
            report.running,
            report.reachable,
            report.hears,
            tuple(sorted(report.taken.items())),
            report.awaited_revisions,
            tuple(sorted(report.tls_problems.items())),
            tuple(self.stats(model, view)),
        )

    def _knows(self, model: str, what: object, view: FleetView) -> bool:
        since = view.since(model, what)
        if since is None or self.has is None:
            return False
        term, version = self.has
        return term == view.term and version >= since

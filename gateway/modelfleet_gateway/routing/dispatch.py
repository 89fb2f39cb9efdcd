"""Who waits for which worker: the view in force, a line per model, slots given out in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from types import TracebackType
from typing import Self

import structlog

from ..errors import NotReadyError, UnknownModelError, UpstreamLostError
from ..metrics import Metrics, ModelMeter
from ..tasks import TaskBag, supervise
from .balance import choose_worker
from .queue import Waiter, WaitingLine
from .view import Route, View, is_outdated, not_ready
from .workers import Lease, Worker

OPERATOR_PATIENCE = 10.0  # seconds that a request for an unknown model waits for the operator

log = structlog.get_logger()


class Desk:
    """One model: its route, its line and its workers."""

    def __init__(self, route: Route, meter: ModelMeter, urgent: asyncio.Event) -> None:
        self.route = route
        self.line: WaitingLine[Lease] = WaitingLine()
        self.workers: dict[str, Worker] = {}
        self.meter = meter
        self._urgent = urgent
        self._ready_before = 0
        self._closed = False

    @property
    def ready_workers(self) -> int:
        """Workers that this gateway would route to."""
        return sum(worker.ready for worker in self.workers.values())

    @property
    def running(self) -> int:
        """Choices that have a worker's slot."""
        return sum(worker.running for worker in self.workers.values())

    def serve(self) -> None:
        """Gives free slots to those who wait. Call it after each change; it is cheap."""
        if self.line:
            self.line.serve(self._place)
            self._dismiss_orphans()

    @property
    def awaited_revisions(self) -> set[str]:
        """Revisions of streams that wait here, while nothing new goes to any worker like theirs.

        The operator starts one for them, if its history still has the revision.
        """
        routable = {worker.model_digest for worker in self.workers.values() if worker.routable}
        return {w.revision for w in self.line.streams() if w.digest not in routable}

    def _dismiss_orphans(self) -> None:
        for waiter in self.line.streams():
            if self._is_orphan(waiter):
                model = self.route.model
                gone = f"{model} was replaced by another revision before this answer's end."
                self.line.send_away(waiter, UpstreamLostError(gone))

    def _is_orphan(self, waiter: Waiter[Lease]) -> bool:
        """Whether no worker will ever have this stream's digest.

        While a worker is there whose digest is not known yet, and while there is none at all, the
        stream waits. It also waits while its revision can be started again, unless a worker of that
        revision shows that it has become another model (a branch that moved).
        """
        workers = self.workers.values()
        digests = {worker.model_digest for worker in workers}
        if not digests or not digests.isdisjoint({"", waiter.digest}):
            return False
        return waiter.revision not in self.route.revisions or any(
            worker.revision == waiter.revision for worker in workers
        )

    def changed(self) -> None:
        """A worker brought news."""
        self.serve()
        ready = self.ready_workers
        if ready != self._ready_before:
            self._ready_before = ready
            self._urgent.set()

    def join(self, waiter: Waiter[Lease]) -> None:
        """Takes a choice back into the line, and serves it at once if it can."""
        self.line.join(waiter)
        if self._closed:
            self.close()
        self.serve()
        self.alarm()

    def alarm(self) -> None:
        """Tells the operator at once when somebody waits whom no worker that is ready can serve."""
        if self.line and (not self.ready_workers or self.awaited_revisions):
            self._urgent.set()

    def close(self) -> None:
        """The model left the view: whoever waits is told, running choices go on."""
        self._closed = True
        gone = f"The model {self.route.model} was deleted while the request waited."
        self.line.dismiss(
            fresh=UnknownModelError(gone, param="model"), resuming=UpstreamLostError(gone)
        )

    def _place(self, waiter: Waiter[Lease]) -> Lease | None:
        worker = choose_worker(self.workers.values(), digest=waiter.digest, avoid=waiter.avoid)
        if worker is None:
            return None
        loop = asyncio.get_running_loop()
        self.meter.queue_wait.observe(loop.time() - waiter.since)
        return worker.lease()


class Admission:
    """One request's choices on their way to workers. Leaving the block gives everything back."""

    def __init__(self, desk: Desk, choices: int) -> None:
        self._desk = desk
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._waiters = desk.line.admit(choices, limit=desk.route.max_queue, now=self._since)
        self._timer = self._loop.call_later(desk.route.hold_timeout, self._hold_no_longer)
        self._expired = False
        desk.serve()
        desk.alarm()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        for waiter in self._waiters:
            self._desk.line.leave(waiter)
            if waiter.turn.done() and not waiter.turn.cancelled() and not waiter.turn.exception():
                waiter.turn.result().release()
            waiter.turn.cancel()
        self._desk.serve()

    async def turn(self, choice: int) -> Lease:
        """Waits for this choice's slot. NotReadyError after the hold timeout."""
        return await self._waiters[choice].turn

    def again(self, choice: int, *, digest: str, revision: str, avoid: str) -> None:
        """Back into the line: at its old place, or ahead of all with a `digest` to resume.

        `revision`: of the worker that accepted it; empty while none has.
        """
        waiter = self._waiters[choice]
        waiter.turn = self._loop.create_future()
        if digest:
            waiter.since = self._loop.time()
        waiter.digest, waiter.revision, waiter.avoid = digest, revision, avoid
        self._desk.join(waiter)
        if self._expired:
            self._dismiss(waiter)

    def accepted(self) -> None:
        """A worker has a choice of it: from here on it is finished, however long that takes."""
        self._timer.cancel()

    def _hold_no_longer(self) -> None:
        self._expired = True
        for waiter in self._waiters:
            self._dismiss(waiter)

    def _dismiss(self, waiter: Waiter[Lease]) -> None:
        if not waiter.turn.done():
            self._desk.line.leave(waiter)
            waited = self._loop.time() - self._since
            desk = self._desk
            waiter.turn.set_exception(
                not_ready(desk.route, waited, desk.ready_workers, time.time())
            )


class Dispatcher:
    """Every model's desk, kept in step with the view."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.view: View | None = None
        self.is_current = asyncio.Event()  # the operator would tell us if the view changed
        self.desks: dict[str, Desk] = {}
        self.urgent = asyncio.Event()  # the operator should hear at once what changed
        self._tasks = TaskBag()
        self._watches: dict[Worker, asyncio.Task[None]] = {}

    def apply(self, view: View, changed: Collection[str] | None = None) -> bool:
        """Puts a view in force; False for one of a leader that was replaced.

        `changed` names the models that differ from the view before; None: any of them may.
        """
        if is_outdated(view, self.view):
            log.warning("an outdated view is ignored", term=view.term, version=view.version)
            return False
        self.view = view
        for model in self.desks.keys() | view.routes.keys() if changed is None else changed:
            self._sync(model, view.routes.get(model))
        self.urgent.set()  # the operator waits for its view to be in force
        return True

    def view_in_force(self) -> View:
        """The view, or NotReadyError before the first."""
        if self.view is None:
            raise NotReadyError(
                "This gateway knows no models yet: it waits for its operator.", retry_after=1
            )
        return self.view

    async def find(self, name: str) -> Route:
        """The route of the model that answers to this name.

        Without an operator the view may be old and the model new: it is waited for.
        UnknownModelError if there is none for sure, NotReadyError if nobody could say.
        """
        try:
            return self.view_in_force().resolve(name)
        except UnknownModelError:
            if self.is_current.is_set():
                raise
        try:
            async with asyncio.timeout(OPERATOR_PATIENCE):
                await self.is_current.wait()
        except TimeoutError:
            raise NotReadyError(
                f"The model {name!r} is not known here, and the operator, which might know it, is "
                "away. Try again later.",
                retry_after=OPERATOR_PATIENCE,
            ) from None
        return self.view_in_force().resolve(name)

    async def close(self) -> None:
        """Closes every channel."""
        await self._tasks.close()
        await asyncio.gather(*(worker.close() for worker in self._watches))

    def _sync(self, model: str, route: Route | None) -> None:
        if route is None:
            desk = self.desks.pop(model, None)
            if desk is not None:
                self._sync_workers(desk, Route(model=model))
                desk.close()
                self._metrics.forget(model)
            return
        if model not in self.desks:
            self.desks[model] = Desk(route, self._metrics.model(model), self.urgent)
        desk = self.desks[model]
        desk.route = route
        self._sync_workers(desk, route)
        desk.serve()

    def _sync_workers(self, desk: Desk, route: Route) -> None:
        wanted = {worker.worker_id: worker for worker in route.workers}
        for worker_id, worker in list(desk.workers.items()):
            if worker_id not in wanted or wanted[worker_id].address != worker.address:
                del desk.workers[worker_id]
                self._tasks.start(self._retire(worker))
        for worker_id, worker_route in wanted.items():
            if worker_id not in desk.workers:
                worker = Worker(worker_route, route.model, self._on_change)
                desk.workers[worker_id] = worker
                self._watches[worker] = self._tasks.start(supervise(worker_id, worker.watch))
            desk.workers[worker_id].routable = worker_route.routable

    async def _retire(self, worker: Worker) -> None:
        worker.routable = False
        await worker.idle()
        self._watches.pop(worker).cancel()
        await worker.close()

    def _on_change(self, model: str) -> None:
        desk = self.desks.get(model)
        if desk:
            desk.changed()

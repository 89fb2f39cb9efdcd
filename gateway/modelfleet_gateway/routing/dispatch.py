"""Assigns workers' slots to requests: the view in force, and a queue for each model in it."""

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
from .queue import QueuedChoice, RequestQueue
from .view import ModelView, View, is_outdated, not_ready
from .workers import Slot, Worker, choose_worker

OPERATOR_TIMEOUT = 10.0  # seconds that a request for an unknown model waits for the operator

log = structlog.get_logger()


class ModelQueue:
    """One model as this gateway serves it: its limits, its queued requests and its workers."""

    def __init__(self, view: ModelView, meter: ModelMeter, urgent: asyncio.Event) -> None:
        self.view = view
        self.requests: RequestQueue = RequestQueue()
        self.workers: dict[str, Worker] = {}
        self.meter = meter
        self._urgent = urgent  # set: the operator should get signals at once
        self._ready_before = 0
        self._deleted = False

    @property
    def ready_workers(self) -> int:
        """Workers that this gateway would route to."""
        return sum(worker.ready for worker in self.workers.values())

    @property
    def running(self) -> int:
        """Choices that have a worker's slot."""
        return sum(worker.running for worker in self.workers.values())

    @property
    def awaited_revisions(self) -> set[str]:
        """Revisions of streams to resume whose digest no routable worker has.

        The operator starts a worker of such a revision, if its history still has it.
        """
        routable = {worker.model_digest for worker in self.workers.values() if worker.routable}
        streams = self.requests.streams_to_resume()
        return {stream.revision for stream in streams if stream.digest not in routable}

    def assign_slots(self) -> None:
        """Gives free slots to queued choices. Call it after each change; it is cheap."""
        if self.requests:
            self.requests.assign_slots(self._take_slot)
            self._reject_unresumable()

    def requeue(self, choice: QueuedChoice) -> None:
        """Queues a choice again, and gives it a slot at once if one is free."""
        self.requests.enqueue(choice)
        if self._deleted:
            self.reject_all()
        self.assign_slots()
        self.signal_if_unserved()

    def signal_if_unserved(self) -> None:
        """Tells the operator at once when a queued choice needs a worker that is not there."""
        if self.requests and (not self.ready_workers or self.awaited_revisions):
            self._urgent.set()

    def on_worker_change(self) -> None:
        """A worker sent Stats, was lost or freed a slot."""
        self.assign_slots()
        ready = self.ready_workers
        if ready != self._ready_before:
            self._ready_before = ready
            self._urgent.set()

    def reject_all(self) -> None:
        """The model was deleted: queued choices fail, now and later; running ones go on."""
        self._deleted = True
        gone = f"The model {self.view.model} was deleted while the request waited."
        self.requests.reject_all(
            new_error=UnknownModelError(gone, param="model"), resume_error=UpstreamLostError(gone)
        )

    def _take_slot(self, choice: QueuedChoice) -> Slot | None:
        worker = choose_worker(self.workers.values(), digest=choice.digest, avoid=choice.avoid)
        if worker is None:
            return None
        loop = asyncio.get_running_loop()
        self.meter.queue_wait.observe(loop.time() - choice.queued_at)
        return worker.take_slot()

    def _reject_unresumable(self) -> None:
        for stream in self.requests.streams_to_resume():
            if not self._may_resume(stream):
                model = self.view.model
                gone = f"{model} was replaced by another revision before this answer's end."
                self.requests.reject(stream, UpstreamLostError(gone))

    def _may_resume(self, stream: QueuedChoice) -> bool:
        """Whether a worker may yet have this stream's digest.

        True while there is no worker at all, and while the digest of one is not known yet. True
        also while the stream's revision can be started again, unless a worker of that revision
        shows that it has become another model (a branch that moved).
        """
        workers = self.workers.values()
        digests = {worker.model_digest for worker in workers}
        if not digests or not digests.isdisjoint({"", stream.digest}):
            return True
        return stream.revision in self.view.revisions and not any(
            worker.revision == stream.revision for worker in workers
        )


class SlotClaim:
    """One request's claim on a slot for each of its choices. Leaving the block releases all."""

    def __init__(self, queue: ModelQueue, choices: int) -> None:
        self._queue = queue
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._choices = queue.requests.add_request(
            choices, limit=queue.view.max_queue, now=self._since
        )
        self._timer = self._loop.call_later(queue.view.hold_timeout, self._on_hold_timeout)
        self._timed_out = False
        queue.assign_slots()
        queue.signal_if_unserved()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        for choice in self._choices:
            self._queue.requests.remove(choice)
            future = choice.slot_future
            if future.done() and not future.cancelled() and not future.exception():
                future.result().release()
            future.cancel()
        self._queue.assign_slots()

    async def slot(self, index: int) -> Slot:
        """Waits for the slot of the choice with this index. NotReadyError after hold_timeout."""
        return await self._choices[index].slot_future

    def requeue(self, index: int, *, digest: str, revision: str, avoid: str) -> None:
        """Queues a choice again: at its old place, or ahead of new ones with a `digest` to resume.

        `revision`: of the worker that accepted it; empty while none has.
        """
        choice = self._choices[index]
        choice.slot_future = self._loop.create_future()
        if digest:
            choice.queued_at = self._loop.time()
        choice.digest, choice.revision, choice.avoid = digest, revision, avoid
        self._queue.requeue(choice)
        if self._timed_out:
            self._reject(choice)

    def on_accepted(self) -> None:
        """A worker accepted a choice: from here on hold_timeout does not end the request."""
        self._timer.cancel()

    def _on_hold_timeout(self) -> None:
        self._timed_out = True
        for choice in self._choices:
            self._reject(choice)

    def _reject(self, choice: QueuedChoice) -> None:
        if not choice.slot_future.done():
            queue, waited = self._queue, self._loop.time() - self._since
            error = not_ready(queue.view, waited, queue.ready_workers, time.time())
            queue.requests.reject(choice, error)


class Dispatcher:
    """Every model's queue, kept in step with the view."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.view: View | None = None
        self.is_current = asyncio.Event()  # the operator would tell us if the view changed
        self.queues: dict[str, ModelQueue] = {}
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
        for name in self.queues.keys() | view.models.keys() if changed is None else changed:
            self._sync(name, view.models.get(name))
        self.urgent.set()  # the operator waits for its view to be in force
        return True

    def view_in_force(self) -> View:
        """The view, or NotReadyError before the first."""
        if self.view is None:
            raise NotReadyError(
                "This gateway knows no models yet: it waits for its operator.", retry_after=1
            )
        return self.view

    async def find(self, name: str) -> ModelView:
        """The model that answers to this name.

        While no operator is connected, the view may be too old to have the model: waits for a new
        one. UnknownModelError: a current view lacks the model. NotReadyError: no current view came.
        """
        try:
            return self.view_in_force().resolve(name)
        except UnknownModelError:
            if self.is_current.is_set():
                raise
        try:
            async with asyncio.timeout(OPERATOR_TIMEOUT):
                await self.is_current.wait()
        except TimeoutError:
            raise NotReadyError(
                f"The model {name!r} is not known here, and the operator, which might know it, is "
                "away. Try again later.",
                retry_after=OPERATOR_TIMEOUT,
            ) from None
        return self.view_in_force().resolve(name)

    async def close(self) -> None:
        """Closes every channel."""
        await self._tasks.close()
        await asyncio.gather(*(worker.close() for worker in self._watches))

    def _sync(self, name: str, model: ModelView | None) -> None:
        if model is None:
            queue = self.queues.pop(name, None)
            if queue is not None:
                self._sync_workers(queue, ModelView(model=name))
                queue.reject_all()
                self._metrics.forget(name)
            return
        if name not in self.queues:
            self.queues[name] = ModelQueue(model, self._metrics.model(name), self.urgent)
        queue = self.queues[name]
        queue.view = model
        self._sync_workers(queue, model)
        queue.assign_slots()

    def _sync_workers(self, queue: ModelQueue, model: ModelView) -> None:
        wanted = {worker.worker_id: worker for worker in model.workers}
        for worker_id, worker in list(queue.workers.items()):
            if worker_id not in wanted or wanted[worker_id].address != worker.address:
                del queue.workers[worker_id]
                self._tasks.start(self._retire(worker))
        for worker_id, route in wanted.items():
            if worker_id not in queue.workers:
                worker = Worker(route, model.model, queue.on_worker_change)
                queue.workers[worker_id] = worker
                self._watches[worker] = self._tasks.start(supervise(worker_id, worker.watch))
            queue.workers[worker_id].routable = route.routable

    async def _retire(self, worker: Worker) -> None:
        worker.routable = False
        await worker.idle()
        self._watches.pop(worker).cancel()
        await worker.close()

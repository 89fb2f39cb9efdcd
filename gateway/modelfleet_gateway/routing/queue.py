"""One model's queue: which of its requests gets the next free slot of which worker."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..errors import QueueFullError, UnknownModelError, UpstreamLostError
from ..metrics import ModelMeter
from .view import ModelView, cannot_serve
from .workers import Slot, Worker


@dataclass(slots=True, eq=False)
class QueuedChoice:
    """One choice of a request that waits for a slot."""

    arrival: int  # kept when it is queued again, so that it returns to its old place
    queued_at: float  # seconds on the loop's clock
    slot_future: asyncio.Future[Slot]
    digest: str = ""  # a stream to resume: only on a worker of this model_digest
    revision: str = ""  # of the worker that it was on last
    avoid: str = ""  # id of the worker that failed it last
    lost_with: frozenset[str] = frozenset()
    """Ids of workers that it may have broken since its last token (failover.may_be_cause)."""
    siblings: Sequence[QueuedChoice] = ()  # all choices of its request
    is_held: bool = False  # a worker accepted a sibling: it waits for as long as it takes

    @property
    def must_wait(self) -> bool:
        """Whether a sibling shows just now if their request breaks another worker."""
        return bool(self.lost_with) and any(choice.is_unserved for choice in self.siblings)

    @property
    def is_unserved(self) -> bool:
        """Whether it has a slot and no token of that worker yet."""
        future = self.slot_future
        return (
            future.done()
            and not future.cancelled()
            and future.exception() is None
            and not future.result().served
        )

    @property
    def order(self) -> tuple[bool, int]:
        """Streams to resume first, then by arrival."""
        return (not self.digest, self.arrival)


class RequestQueue:
    """The choices that wait for a slot: streams to resume first, then new ones as they arrived."""

    def __init__(self) -> None:
        self._choices: list[QueuedChoice] = []  # sorted by order
        self._arrivals = itertools.count()

    def __len__(self) -> int:
        return len(self._choices)

    def add_request(self, count: int, *, limit: int, now: float) -> list[QueuedChoice]:
        """Queues all `count` choices of a new request, or raises QueueFullError.

        A request that finds no other new request queued is always taken: one with more choices
        than `limit` could never be served otherwise. Streams to resume do not count.
        """
        new = len(self) - len(self.streams_to_resume())
        if new and new + count > limit:
            raise QueueFullError(
                f"The queue is full: {new} of at most {limit} requests wait, {count} more asked. "
                "Try again later.",
                retry_after=min(self.oldest_wait(now), 30.0),
            )
        loop = asyncio.get_running_loop()
        choices = [
            QueuedChoice(next(self._arrivals), now, loop.create_future()) for _ in range(count)
        ]
        for choice in choices:
            choice.siblings = choices
            self.enqueue(choice)
        return choices

    def enqueue(self, choice: QueuedChoice) -> None:
        """Inserts a choice at the place that its order gives."""
        bisect.insort(self._choices, choice, key=lambda c: c.order)

    def remove(self, choice: QueuedChoice) -> None:
        """Takes a choice out; no-op for one that is not queued."""
        with contextlib.suppress(ValueError):
            self._choices.remove(choice)

    def assign_slots(self, take_slot: Callable[[QueuedChoice], Slot | None]) -> None:
        """Gives slots to choices in order, until `take_slot` finds none.

        A stream whose digest has no free worker is skipped, and so is a request that is tried
        alone. New requests have equal needs: where the first finds no slot, none does.
        """
        index = 0
        while index < len(self._choices):
            choice = self._choices[index]
            if choice.slot_future.done():  # cancelled: its client has disconnected
                del self._choices[index]
                continue
            slot = take_slot(choice)
            if slot is not None:
                del self._choices[index]
                choice.slot_future.set_result(slot)
            elif choice.digest or choice.lost_with:
                index += 1
            else:
                return

    def reject(self, choice: QueuedChoice, error: Exception) -> None:
        """Takes a queued choice out and fails it with this error."""
        self._choices.remove(choice)
        choice.slot_future.set_exception(error)

    def reject_new(self, error: Exception) -> None:
        """Fails the choices of requests that no worker has accepted."""
        for choice in [c for c in self._choices if not (c.digest or c.is_held)]:
            if choice.slot_future.done():
                self._choices.remove(choice)
            else:
                self.reject(choice, error)

    def reject_all(self, *, new_error: Exception, resume_error: Exception) -> None:
        """Empties the queue; new requests and streams to resume fail with different errors."""
        choices, self._choices = self._choices, []
        for choice in choices:
            if not choice.slot_future.done():
                choice.slot_future.set_exception(resume_error if choice.digest else new_error)

    def streams_to_resume(self) -> list[QueuedChoice]:
        """Choices that a worker had begun to answer, in order."""
        return self._choices[: bisect.bisect(self._choices, (True, -1), key=lambda c: c.order)]

    def oldest_wait(self, now: float) -> float:
        """Seconds that the oldest choice has been queued; 0 when the queue is empty."""
        return max((now - choice.queued_at for choice in self._choices), default=0.0)


class ModelQueue:
    """One model as this gateway serves it: its limits, its queued requests and its workers."""

    def __init__(self, view: ModelView, meter: ModelMeter, urgent: asyncio.Event) -> None:
        self.view = view
        self.requests = RequestQueue()
        self.workers: dict[str, Worker] = {}
        self.meter = meter
        self._urgent = urgent  # set: the operator should get signals at once
        self._ready_before = 0
        self._deleted = False
        self._judge_by_targets()

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

    def check_can_serve(self) -> None:
        """NotReadyError if no worker is ready and none will come by itself."""
        if self.view.cause and not self.ready_workers:
            raise cannot_serve(self.view)

    def on_view(self, view: ModelView) -> None:
        """A new view of the model is in force, and its workers are those of the view."""
        self.view = view
        self._judge_by_targets()
        self._reject_hopeless()
        self.assign_slots()

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
        """A worker sent Stats, disconnected or has a slot free again."""
        self.assign_slots()
        ready = self.ready_workers
        if ready != self._ready_before:
            self._ready_before = ready
            self._urgent.set()
            self._reject_hopeless()

    def reject_all(self) -> None:
        """The model was deleted: queued choices fail, now and later; running ones go on."""
        self._deleted = True
        message = f"The model {self.view.model} was deleted while the request waited."
        self.requests.reject_all(
            new_error=UnknownModelError(message, param="model"),
            resume_error=UpstreamLostError(message),
        )

    def _take_slot(self, choice: QueuedChoice) -> Slot | None:
        if choice.must_wait:
            return None
        worker = choose_worker(
            self.workers.values(),
            digest=choice.digest,
            avoid=choice.avoid,
            on_trial=bool(choice.lost_with),
        )
        if worker is None:
            return None
        loop = asyncio.get_running_loop()
        self.meter.queue_wait.observe(loop.time() - choice.queued_at)
        return worker.take_slot(len(choice.lost_with))

    def _judge_by_targets(self) -> None:
        self.meter.ttft_target = self.view.ttft_target
        self.meter.tpot_target = self.view.tpot_target

    def _reject_hopeless(self) -> None:
        """Only what can come is waited for; streams that began are held all the same."""
        if self.requests and self.view.cause and not self.ready_workers:
            self.requests.reject_new(cannot_serve(self.view))

    def _reject_unresumable(self) -> None:
        for stream in self.requests.streams_to_resume():
            if not self._may_resume(stream):
                model = self.view.model
                message = f"{model} was replaced by another revision before this answer's end."
                self.requests.reject(stream, UpstreamLostError(message))

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


def choose_worker(
    workers: Iterable[Worker], *, digest: str = "", avoid: str = "", on_trial: bool = False
) -> Worker | None:
    """The least loaded worker of those with a free slot; ties go to the first.

    `digest`: only a worker of this model_digest may resume a stream. `avoid`: id of the worker that
    failed the request last; chosen only when there is no other. `on_trial`: the request may have
    broken a worker, so it goes where no other such request has no token yet.
    """
    able = [
        worker
        for worker in workers
        if worker.free_slots > 0
        and (not digest or worker.model_digest == digest)
        and not (on_trial and worker.has_trial)
    ]
    return min(able, key=lambda w: (w.worker_id == avoid, w.outstanding), default=None)

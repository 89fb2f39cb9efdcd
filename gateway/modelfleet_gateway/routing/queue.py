"""One model's queue: which of its requests gets the next free slot of which worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from modelfleet_process.overload import most_admitted

from ..errors import UnknownModelError, UpstreamLostError, WrongTaskError
from ..metrics import ModelMeter
from .balance import RoutedBy, choose
from .continuation import continuers
from .health import without_outliers
from .prefixes import PromptKeys
from .queued_choice import Pace, QueuedChoice
from .request_queue import RequestQueue
from .slots import Slot
from .tasks import INSTEAD, Task
from .view import ModelView, cannot_serve
from .workers import Worker
from .yielding import Reserve, slots_to_yield, youngest


class ModelQueue:
    """One model as this gateway serves it: its limits, its queued requests and its workers."""

    def __init__(self, view: ModelView, meter: ModelMeter, urgent: asyncio.Event) -> None:
        self.view = view
        self.requests = RequestQueue()
        self._most: int | None = None  # new requests that one worker gets at once; None: its slots
        self.workers: dict[str, Worker] = {}
        self.meter = meter
        self.idle_work = 0  # running choices of batches, on slots that no one else wants
        self._urgent = urgent  # set: the operator should get signals at once
        self._ready_before = 0
        self._deleted = False
        self._reserve = Reserve()
        self._may_yield = False  # a batch request has, or had, a slot
        self.waiting_elsewhere = 0  # interactive requests in other gateways, while batch runs here
        self._elsewhere_timer: asyncio.TimerHandle | None = None
        self._judge_by_targets()

    @property
    def ready_workers(self) -> int:
        """Workers that this gateway would route to."""
        return sum(worker.ready for worker in self.workers.values())

    def ready_for(self, needs: frozenset[str]) -> int:
        """Those among them that have these features."""
        return sum(worker.ready and worker.has(needs) for worker in self.workers.values())

    @property
    def running(self) -> int:
        """Choices that have a worker's slot; one that is about to move has two."""
        return sum(worker.running - worker.preparing for worker in self.workers.values())

    @property
    def batch_running(self) -> int:
        """Choices of batch requests that have a worker's slot."""
        if not self._may_yield:
            return 0
        return sum(len(worker.batch_slots) for worker in self.workers.values())

    @property
    def awaited_revisions(self) -> set[str]:
        """Revisions of streams to resume whose digest no routable worker has.

        The operator starts a worker of such a revision, if its history still has it.
        """
        routable = [worker for worker in self.workers.values() if worker.routable]
        held = {w.model_digest for w in routable} | {w.weights_digest for w in routable}
        streams = self.requests.streams_to_resume()
        return {s.revision for s in streams if held.isdisjoint({s.digest, s.weights or s.digest})}

    def check_can_serve(self) -> None:
        """NotReadyError if no worker is ready and none will come by itself."""
        if self.view.cause and not self.ready_workers:
            raise cannot_serve(self.view)

    def check_task(self, task: Task) -> None:
        """WrongTaskError if the model is known to be for something else."""
        found = self.view.task
        if not found:
            found = next((w.task for w in self.workers.values() if w.ready), task)
        if found != task:
            raise WrongTaskError(
                f"{self.view.model} {INSTEAD.get(found, 'is for ' + found)}.", param="model"
            )

    def on_view(self, view: ModelView) -> None:
        """A new view of the model is in force, and its workers are those of the view."""
        self.view = view
        self.requests.policy = view.overload
        self._most = most_admitted(view.overload, view.target_in_flight)
        self._judge_by_targets()
        self._reject_hopeless()
        self._hand_over()
        self.assign_slots()

    def assign_slots(self) -> None:
        """Gives free slots to queued choices. Call it after each change; it is cheap."""
        if self.requests:
            now = asyncio.get_running_loop().time()
            self.requests.assign_slots(self._take_slot, now=now, pace=self.pace)
            if self._may_yield and self.requests.interactive:
                self._yield_slots(now)
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
        self._hand_over()
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

    def _hand_over(self) -> None:
        """Moves what runs on workers that are about to go, as soon as others have slots for it.

        Until then it runs on where it is: a stream that waits shows its client nothing.
        """
        for worker in self.workers.values():
            if worker.hands_over and worker.running and not worker.routable:
                able = continuers(
                    list(self.workers.values()), worker.model_digest, worker.weights_digest
                )
                free = sum(other.free_slots for other in able)
                worker.move_calls(free - len(self.requests.streams_to_resume()))

    def _yield_slots(self, now: float) -> None:
        """Hands batch streams back, so that what is interactive and waits has their slots."""
        workers = list(self.workers.values())
        running = [slot for worker in workers for slot in worker.batch_slots]
        self._may_yield = bool(running)
        for slot in slots_to_yield(self.requests.interactive, running, workers):
            self._yield_slot(slot, now)

    def on_waiting_elsewhere(self, requests: int) -> None:
        """So many interactive requests wait in other gateways: they get slots of batch streams."""
        self.waiting_elsewhere = requests
        self._yield_elsewhere()
        if not requests:
            self.assign_slots()

    def _yield_elsewhere(self) -> None:
        """What was handed back lately is on its way to them, and looked at again later."""
        if self._elsewhere_timer is not None:
            self._elsewhere_timer.cancel()
            self._elsewhere_timer = None
        if not self.waiting_elsewhere:
            return
        loop = asyncio.get_running_loop()
        self._elsewhere_timer = loop.call_later(self._reserve.seconds, self._yield_elsewhere)
        more = max(self.waiting_elsewhere - self._reserve.count(loop.time()), 0)
        running = [slot for worker in self.workers.values() for slot in worker.batch_slots]
        for slot in youngest(running)[:more]:
            self._yield_slot(slot, loop.time())

    def _yield_slot(self, slot: Slot, now: float) -> None:
        slot.make_room()
        self.meter.count_yielded()
        self._reserve.note(now)
        asyncio.get_running_loop().call_later(self._reserve.seconds, self.assign_slots)

    def _take_slot(self, choice: QueuedChoice) -> Slot | None:
        if choice.must_wait:
            return None
        now = asyncio.get_running_loop().time()
        if choice.is_batch and self.waiting_elsewhere:
            return None
        if choice.is_batch and (reserved := self._reserve.count(now)):
            free = sum(worker.free_slots for worker in self.workers.values())
            if free <= reserved:
                return None
        slot = self.take_slot(choice)
        if slot is not None:
            self.meter.observe_wait(now - choice.queued_at)
        return slot

    def take_slot(self, choice: QueuedChoice) -> Slot | None:
        """The best free slot for it; None: there is none."""
        keys = choice.keys if self.view.by_prefix else None
        chosen = choose_worker(
            self.workers.values(),
            now=asyncio.get_running_loop().time(),
            digest=choice.digest,
            weights=choice.weights,
            avoid=choice.avoid,
            on_trial=bool(choice.lost_with),
            most=None if choice.digest else self._most,
            needs=choice.needs,
            keys=keys,
            pack=self.view.pack_in_flight,
        )
        if chosen is None:
            return None
        self.meter.count_routed(chosen.by)
        self._may_yield |= choice.is_batch
        batch = choice if choice.is_batch else None
        return chosen.worker.take_slot(len(choice.lost_with), keys, batch)

    def pace(self) -> Pace:
        """Slots that requests of this gateway can have, and how long one has a slot."""
        slots, per_second = 0, 0.0
        for worker in self.workers.values():
            if worker.ready and worker.service_seconds > 0:
                most = worker.slots if self._most is None else min(worker.slots, self._most)
                its = max(most - worker.others, 0)
                slots += its
                per_second += its / worker.service_seconds
        return slots, slots / per_second if per_second else 0.0

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
        """Whether a worker may yet have this stream's digest, or holds the same weights.

        True while there is no worker at all, and while the digest of one is not known yet. True
        also while the stream's revision can be started again, unless a worker of that revision
        shows that it has become another model (a branch that moved).
        """
        workers = self.workers.values()
        digests = {worker.model_digest for worker in workers}
        if not digests or not digests.isdisjoint({"", stream.digest}):
            return True
        if stream.weights and any(worker.weights_digest == stream.weights for worker in workers):
            return True
        return stream.revision in self.view.revisions and not any(
            worker.revision == stream.revision for worker in workers
        )


@dataclass(frozen=True, slots=True)
class Routed:
    """Where a request goes, and why."""

    worker: Worker
    by: RoutedBy


def choose_worker(
    workers: Iterable[Worker],
    *,
    now: float,
    digest: str = "",
    weights: str = "",
    avoid: str = "",
    on_trial: bool = False,
    most: int | None = None,
    needs: frozenset[str] = frozenset(),
    keys: PromptKeys | None = None,
    pack: int = 0,
) -> Routed | None:
    """One of those with a free slot: by the prompt's keys (balance.py), or with the least to do.

    `now`: seconds on the loop's clock. `digest`, `weights`: of a stream to resume
    (continuation.continuers). `avoid`: id of the worker that failed the request last; chosen only
    when there is no other. `on_trial`: the request may have broken a worker, so it goes where no
    other such request has no token yet. `most`: requests that a worker gets at once; None: as many
    as it has slots. `needs`: features that it must have. `pack`: see balance.choose. Without keys
    ties go to the first.
    """
    fit = continuers(list(workers), digest, weights) if digest else list(workers)
    if needs:
        fit = [worker for worker in fit if worker.has(needs)]
    able: Sequence[Worker] = [
        worker
        for worker in fit
        if worker.free_slots > 0
        and (most is None or worker.outstanding < most)
        and not (on_trial and worker.has_trial)
    ]
    if len(able) > 1:
        able = [worker for worker in able if worker.worker_id != avoid]
    if any(worker.health.ejected_until > now for worker in able):
        able = without_outliers(able, [worker for worker in fit if worker.ready], now)
    if not able:
        return None
    if keys is None or len(able) == 1:
        return Routed(min(able, key=lambda worker: worker.outstanding), RoutedBy.LOAD)
    seen = [worker.seen_for(keys, now) for worker in able]
    choice = choose(seen, keys, pack)
    return Routed(able[seen.index(choice.worker)], choice.by)

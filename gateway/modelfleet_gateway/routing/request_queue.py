"""The requests of one model that wait for a slot, and which of them is next."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from modelfleet_process.overload import FifoTurns, OverloadPolicy, newest_is_next

from ..errors import QueueFullError
from .prefixes import PromptKeys
from .slots import Slot

# How many requests workers have at once, and the seconds that one takes there; 0: not known.
Pace = tuple[int, float]


@dataclass(slots=True, eq=False)
class QueuedChoice:
    """One choice of a request that waits for a slot."""

    arrival: int  # kept when it is queued again, so that it returns to its old place
    queued_at: float  # seconds on the loop's clock
    slot_future: asyncio.Future[Slot]
    digest: str = ""  # a stream to resume: on a worker of this model_digest,
    weights: str = ""  # or else of this weights_digest (continuation.continuers)
    revision: str = ""  # of the worker that it was on last
    avoid: str = ""  # id of the worker that failed it last
    lost_with: frozenset[str] = frozenset()
    """Ids of workers that it may have broken since its last token (failover.may_be_cause)."""
    needs: frozenset[str] = frozenset()  # features that its worker must have
    keys: PromptKeys | None = None  # of its prompt; None: it goes where the least is to do
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


class RequestQueue:
    """Streams to resume first, then what had a slot before, then new requests as `policy` says."""

    def __init__(self) -> None:
        self._streams: list[QueuedChoice] = []  # to resume, by arrival
        self._returned: list[QueuedChoice] = []  # had a slot, or a sibling has; by arrival
        self._new: OrderedDict[int, QueuedChoice] = OrderedDict()  # by arrival
        self._arrivals = itertools.count()
        self._policy = OverloadPolicy()
        self._turns: FifoTurns | None = None  # None: all is in order anyway

    def __len__(self) -> int:
        return len(self._streams) + len(self._returned) + len(self._new)

    @property
    def policy(self) -> OverloadPolicy:
        """Which new request is next."""
        return self._policy

    @policy.setter
    def policy(self, policy: OverloadPolicy) -> None:
        if policy == self._policy:
            return
        self._policy = policy
        self._turns = None if policy.order == "Fifo" else FifoTurns()
        if self._turns is not None:
            for choice in self._new.values():
                self._turns.arrive(choice.arrival, choice.queued_at, policy.hold_timeout)

    def add_request(
        self, count: int, *, limit: int, now: float, needs: frozenset[str] = frozenset()
    ) -> list[QueuedChoice]:
        """Queues all `count` choices of a new request, or raises QueueFullError.

        A request that finds no other new request queued is always taken: one with more choices
        than `limit` could never be served otherwise. Streams to resume do not count.
        """
        new = len(self._returned) + len(self._new)
        if new and new + count > limit:
            raise QueueFullError(
                f"The queue is full: {new} of at most {limit} requests wait, {count} more asked. "
                "Try again later.",
                retry_after=min(self.oldest_wait(now), 30.0),
            )
        loop = asyncio.get_running_loop()
        choices = [
            QueuedChoice(next(self._arrivals), now, loop.create_future(), needs=needs)
            for _ in range(count)
        ]
        for choice in choices:
            choice.siblings = choices
            self._new[choice.arrival] = choice
            if self._turns is not None:
                self._turns.arrive(choice.arrival, now, self._policy.hold_timeout)
        return choices

    def enqueue(self, choice: QueuedChoice) -> None:
        """Queues a choice that had a slot again: before all new ones."""
        line = self._streams if choice.digest else self._returned
        bisect.insort(line, choice, key=_arrival)

    def hold(self, choice: QueuedChoice) -> None:
        """A worker accepted a sibling of it: it is not passed over by requests that begin later."""
        choice.is_held = True
        if self._take_new(choice):
            bisect.insort(self._returned, choice, key=_arrival)

    def remove(self, choice: QueuedChoice) -> None:
        """Takes a choice out; no-op for one that is not queued."""
        if not self._take_new(choice):
            for line in (self._returned, self._streams):
                with contextlib.suppress(ValueError):
                    line.remove(choice)

    def assign_slots(
        self,
        take_slot: Callable[[QueuedChoice], Slot | None],
        *,
        now: float,
        pace: Callable[[], Pace],
    ) -> None:
        """Gives slots to choices in order, until `take_slot` finds none.

        A stream whose digest has no free worker is skipped, and so is a request that is tried
        alone. New requests that any worker can serve are equal: where the first of them finds no
        slot, none does. One with `needs` that finds none is passed over.
        """
        if self._streams:
            self._streams = [c for c in self._streams if not _assign(c, take_slot)]
        while self._returned and (choice := self._first_returned(take_slot)) is not None:
            self._returned.remove(choice)
        if any(not (choice.lost_with or choice.needs) for choice in self._returned):
            return
        while self._new:
            choice = self._next_new(now, pace)
            if not _assign(choice, take_slot):
                if choice.needs:
                    self._assign_others(take_slot, now)
                return
            self._serve_new(choice, now)
        if self._turns is not None:
            self._turns.clear()

    def _assign_others(self, take_slot: Callable[[QueuedChoice], Slot | None], now: float) -> None:
        """Serves new requests in order, of which one with needs has found no slot."""
        unmet: set[frozenset[str]] = set()
        for choice in list(self._new.values()):
            if choice.needs in unmet:
                continue
            if _assign(choice, take_slot):
                self._serve_new(choice, now)
            elif choice.needs:
                unmet.add(choice.needs)
            else:
                return

    def _serve_new(self, choice: QueuedChoice, now: float) -> None:
        del self._new[choice.arrival]
        if self._turns is None:
            return
        if choice.slot_future.cancelled():
            self._turns.leave(choice.arrival)
        else:
            self._turns.serve(choice.arrival, now)

    def _first_returned(
        self, take_slot: Callable[[QueuedChoice], Slot | None]
    ) -> QueuedChoice | None:
        for choice in self._returned:
            if _assign(choice, take_slot):
                return choice
            if not (choice.lost_with or choice.needs):
                return None
        return None

    def _next_new(self, now: float, pace: Callable[[], Pace]) -> QueuedChoice:
        oldest = next(iter(self._new.values()))
        if self._turns is None or now - oldest.queued_at <= self._policy.target:
            return oldest
        slots, service_seconds = pace()
        is_newest = newest_is_next(
            self._policy,
            oldest_wait=now - oldest.queued_at,
            waiting=len(self._new),
            slots=slots,
            service_seconds=service_seconds,
        )
        return next(reversed(self._new.values())) if is_newest else oldest

    def _take_new(self, choice: QueuedChoice) -> bool:
        """Takes it out of the new ones; False: it is not among them."""
        if self._new.pop(choice.arrival, None) is None:
            return False
        if self._turns is not None:
            self._turns.leave(choice.arrival)
        return True

    def had_turn(self, choice: QueuedChoice) -> bool:
        """Whether first in, first out would have served it already, by the slots given so far."""
        return self._turns is not None and self._turns.had_turn(choice.arrival)

    def reject(self, choice: QueuedChoice, error: Exception) -> None:
        """Takes a queued choice out and fails it with this error."""
        self.remove(choice)
        choice.slot_future.set_exception(error)

    def reject_new(self, error: Exception) -> None:
        """Fails the choices of requests that no worker has accepted."""
        for choice in [c for c in (*self._returned, *self._new.values()) if not c.is_held]:
            if choice.slot_future.done():
                self.remove(choice)
            else:
                self.reject(choice, error)

    def reject_all(self, *, new_error: Exception, resume_error: Exception) -> None:
        """Empties the queue; new requests and streams to resume fail with different errors."""
        choices = list(self)
        self._streams, self._returned = [], []
        self._new.clear()
        if self._turns is not None:
            self._turns.clear()
        for choice in choices:
            if not choice.slot_future.done():
                choice.slot_future.set_exception(resume_error if choice.digest else new_error)

    def __iter__(self) -> Iterator[QueuedChoice]:
        return itertools.chain(self._streams, self._returned, self._new.values())

    def streams_to_resume(self) -> list[QueuedChoice]:
        """Choices that a worker had begun to answer, in order."""
        return list(self._streams)

    def oldest_wait(self, now: float) -> float:
        """Seconds that the oldest choice has been queued; 0 when the queue is empty."""
        # Streams are queued anew, so the first of them is not the oldest.
        waits = [now - choice.queued_at for choice in (*self._streams, *self._returned)]
        if self._new:
            waits.append(now - next(iter(self._new.values())).queued_at)
        return max(waits, default=0.0)


def _arrival(choice: QueuedChoice) -> int:
    return choice.arrival


def _assign(choice: QueuedChoice, take_slot: Callable[[QueuedChoice], Slot | None]) -> bool:
    """Whether it waits no more: it has a slot now, or its client has disconnected."""
    if choice.slot_future.done():
        return True
    slot = take_slot(choice)
    if slot is not None:
        choice.slot_future.set_result(slot)
    return slot is not None

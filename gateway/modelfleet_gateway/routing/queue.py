"""The queue of one model: bounded, in order of arrival, streams to resume ahead of new requests."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import QueueFullError
from .workers import Slot


@dataclass(slots=True, eq=False)
class QueuedChoice:
    """One choice of a request that waits for a slot."""

    arrival: int  # kept when it is queued again, so that it returns to its old place
    queued_at: float  # seconds on the loop's clock
    slot_future: asyncio.Future[Slot]
    digest: str = ""  # a stream to resume: only on a worker of this model_digest
    revision: str = ""  # of the worker that it was on last
    avoid: str = ""  # id of the worker that failed it last

    @property
    def order(self) -> tuple[bool, int]:
        """Streams to resume first, then by arrival."""
        return (not self.digest, self.arrival)


class RequestQueue:
    """All choices that wait for a slot of one model's workers, in the order of service."""

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

        A stream whose digest has no free worker is skipped. New requests have equal needs: where
        the first finds no slot, none does.
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
            elif choice.digest:
                index += 1
            else:
                return

    def reject(self, choice: QueuedChoice, error: Exception) -> None:
        """Takes a queued choice out and fails it with this error."""
        self._choices.remove(choice)
        choice.slot_future.set_exception(error)

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

"""Which batch streams make room for interactive requests, and when batch may have the slots again.

A stream that makes room is handed back and goes on later, token by token as if nothing had been
(exact resume): its worker computes its prompt and tokens again, mostly from its prefix cache.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from .continuation import continuers
from .queued_choice import QueuedChoice
from .slots import Slot
from .workers import Worker

RESERVED: Final = 2.0  # seconds that a slot stays with interactive requests


def slots_to_yield(
    waiting: Iterable[QueuedChoice], running: Sequence[Slot], workers: Sequence[Worker]
) -> list[Slot]:
    """Of these batch slots the ones to hand back now: one for each who waits and can use it.

    `waiting`: interactive choices, in order. The youngest request makes room first, so that the
    older ones end. Slots that are being handed back already count for those who wait longest.
    One that made room before it had a token is left alone until it has one: each start gets on.
    """
    able = [slot for slot in running if slot.was_yielded or _may_yield(slot)]
    able.sort(key=lambda slot: (not slot.was_yielded, -_arrival(slot)))
    chosen: list[Slot] = []
    for choice in waiting:
        if not able:
            break
        slot = None if choice.must_wait else _slot_for(choice, able, workers)
        if slot is not None:
            able.remove(slot)
            if not slot.was_yielded:
                chosen.append(slot)
    return chosen


def youngest(running: Iterable[Slot]) -> list[Slot]:
    """Batch slots that may be handed back, the youngest request first."""
    able = [slot for slot in running if not slot.was_yielded and _may_yield(slot)]
    return sorted(able, key=_arrival, reverse=True)


def _slot_for(choice: QueuedChoice, able: Sequence[Slot], workers: Sequence[Worker]) -> Slot | None:
    digest = choice.digest
    fitting = continuers(workers, digest, choice.weights) if digest else workers
    for slot in able:
        worker = slot.worker
        if (
            worker.ready
            and worker in fitting
            and worker.has(choice.needs)
            and not (choice.lost_with and worker.has_trial)
        ):
            return slot
    return None


def _may_yield(slot: Slot) -> bool:
    batch = slot.batch
    return batch is not None and (slot.served or not batch.yielded_unserved)


def _arrival(slot: Slot) -> int:
    return slot.batch.arrival if slot.batch is not None else 0


class Reserve:
    """Slots that were handed back lately: batch leaves as many free, so that nothing thrashes.

    Without it a stream would take back the slot between two interactive requests, and hand it back
    again for the second.
    """

    def __init__(self, seconds: float = RESERVED) -> None:
        self.seconds = seconds
        self._since: deque[float] = deque()

    def note(self, now: float) -> None:
        """A slot was handed back."""
        self._since.append(now)

    def count(self, now: float) -> int:
        """So many are kept."""
        while self._since and now - self._since[0] >= self.seconds:
            self._since.popleft()
        return len(self._since)

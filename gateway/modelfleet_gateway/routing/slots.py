"""A worker's slots: which calls have them, and what these have it do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from .calls import MOVED, YIELDED, Call, CountUnread, Serialize
from .embed_call import EmbedCall
from .failover import LostCall, may_be_cause

if TYPE_CHECKING:
    from .queued_choice import QueuedChoice
    from .workers import Worker

SMOOTHING: Final = 1 / 16  # weight of the latest request in the mean time that one takes


class Slot:
    """One slot of a worker, taken by one choice until released."""

    def __init__(
        self,
        worker: Worker,
        losses: int = 0,
        unread: int = 0,
        batch: QueuedChoice | None = None,
    ) -> None:
        self.worker = worker
        self.batch = batch  # who has it, if that is a batch request
        self.unread = unread  # bytes of its prompt that the worker has not read before
        self.losses = losses  # workers that its request was lost with before (failover.LostCall)
        self.was_aborted = False  # we cancelled the call: its worker disconnected or failed
        self.was_moved = False  # the same, since its worker is about to go
        self.was_yielded = False  # the same, since an interactive request waits
        self.accepted = False
        self.served = False  # it had a token of this worker, so it is not what breaks it
        self.is_excused = False  # another call is why the worker is lost, if it is
        self.prepare: Callable[[Slot], bool] | None = None  # `move` calls it first; False: in vain
        self.has_next = False  # it has a slot elsewhere, where its move is prepared
        self._late = True  # not sent yet, or when the worker had been silent for a while
        self._sent_at = 0.0  # seconds on the loop's clock
        self._call: Call | EmbedCall | None = None

    @property
    def is_on_trial(self) -> bool:
        """Its request was lost with a worker before, and has no token of this one yet."""
        return self.losses > 0 and not self.served

    def start_call(self, request: Serialize, count_unread: CountUnread) -> Call:
        """Sends the request that this slot is for."""
        self._sent_at, self._late = self.worker.note_call()
        call = self._call = self.worker.call(request, count_unread)
        self._end_if_lost()
        return call

    def start_embedding(self, request: bytes) -> EmbedCall:
        """Sends the EmbedRequest, serialized, that this slot is for."""
        self._sent_at, self._late = self.worker.note_call()
        call = self._call = self.worker.embed(request)
        self._end_if_lost()
        return call

    def _end_if_lost(self) -> None:
        if self._call is not None and self.was_moved:
            self._call.cancel(YIELDED if self.was_yielded else MOVED)
        elif self._call is not None and self.was_aborted:
            self._call.cancel()

    def mark_accepted(self) -> None:
        """The worker has the request in its engine."""
        self.accepted = True
        self.worker.on_accepted()

    def mark_served(self) -> None:
        """It has its first token of this worker, which has read its prompt."""
        if not self.served:
            self.served = True
            self.worker.on_served(self)

    def as_lost(self) -> LostCall:
        """What decides whether its request may be why the worker was lost."""
        return LostCall(served=self.served, late=self._late, losses=self.losses)

    def seconds(self, now: float) -> float:
        """Since the call was sent; `now` is on the loop's clock."""
        return now - self._sent_at

    def abort(self) -> None:
        """Ends the call, since its worker is lost; `was_aborted` says so to its reader."""
        self.was_aborted = True
        if self._call is not None:
            self._call.cancel()

    def move(self) -> None:
        """Has its request go on elsewhere: at once, or when that is prepared there."""
        if self.prepare is None or not self.prepare(self):
            self.end_moved()

    def end_moved(self) -> None:
        """Ends the call, so that its request goes on elsewhere."""
        self.was_moved = True
        if self._call is not None:
            self._call.cancel(MOVED)

    def make_room(self) -> None:
        """Ends the call of a batch request, which goes on when there is a slot for it again."""
        if self.batch is not None and not self.served:
            self.batch.yielded_unserved = True
        self.was_moved = self.was_yielded = True
        if self._call is not None:
            self._call.cancel(YIELDED)

    def end_call(self) -> None:
        """Ends its call if it still runs; another one may follow."""
        if self._call is not None:
            self._call.close()
            self._call = None

    def release(self) -> None:
        """Gives the slot back and ends its call if it still runs; no-op the second time."""
        self.end_call()
        self.worker.release_slot(self)


class TakenSlots:
    """The slots that this gateway has of one worker; how many others have, as far as is known."""

    def __init__(self) -> None:
        self._taken: set[Slot] = set()
        self._peak = 0  # most taken at once since the last Stats
        self.others = 0  # requests of other gateways, never over-estimated
        self.unread = 0  # bytes of prompts that are read before these have their first token
        self.service_seconds = 0.0  # that a request has a slot, a moving mean; 0: not known
        self._idle = asyncio.Event()

    def __len__(self) -> int:
        return len(self._taken)

    @property
    def outstanding(self) -> int:
        """Requests that it has from all gateways."""
        return len(self._taken) + self.others

    @property
    def has_trial(self) -> bool:
        """Whether a request that may have broken another worker has no token here yet."""
        return any(slot.is_on_trial for slot in self._taken)

    def of_batches(self) -> list[Slot]:
        """Those that batch requests have."""
        return [slot for slot in self._taken if slot.batch is not None]

    def take(self, slot: Slot) -> None:
        """It is taken."""
        self._taken.add(slot)
        self._peak = max(self._peak, len(self._taken))
        self.unread += slot.unread

    def note_served(self, slot: Slot) -> None:
        """The worker has read its prompt."""
        if slot in self._taken:
            self.unread -= slot.unread

    def free(self, slot: Slot, now: float) -> bool:
        """It is free again; False: it was before. `now`: seconds on the loop's clock."""
        if slot not in self._taken:
            return False
        self._taken.remove(slot)
        if not slot.served:
            self.unread -= slot.unread
        # A refused request had no slot in the worker, and one that is moved has not ended.
        if slot.accepted and not slot.was_moved:
            mean, seconds = self.service_seconds, slot.seconds(now)
            self.service_seconds = mean + SMOOTHING * (seconds - mean) if mean else seconds
        self._idle.set()
        return True

    def on_stats(self, requests: int) -> None:
        """The worker says how many it has.

        Stats lag behind our own count. They cannot hold more requests of ours than we had at once
        since the last Stats, so what is above that peak belongs to other gateways.
        """
        self.others = max(0, requests - self._peak)
        self._peak = len(self._taken)

    def move(self, room: int) -> None:
        """Has their calls go on elsewhere, as many as have room there; those under way count."""
        for slot in self._taken:
            if room <= 0:
                return
            if slot.has_next:
                continue
            room -= 1
            if not slot.was_moved:
                slot.move()

    def abort(self) -> None:
        """Ends all their calls, since the worker is lost."""
        for slot in self._taken:
            slot.abort()

    def may_be_lost_by(self, slot: Slot) -> bool:
        """Whether this slot's call may be why the worker is lost."""
        if slot.is_excused:
            return False
        others = self._taken - {slot}
        if not may_be_cause(slot.as_lost(), (other.as_lost() for other in others)):
            return False
        if slot.losses:
            for other in others:
                other.is_excused = True
        return True

    async def wait_until_idle(self) -> None:
        """Returns when none is taken."""
        while self._taken:
            self._idle.clear()
            await self._idle.wait()

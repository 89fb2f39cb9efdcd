"""The requests of one model that wait for a slot: bounded, the interactive ones first."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator

from modelfleet_process.overload import OverloadPolicy

from ..errors import QueueFullError, QueueShareError
from .fairness import ANYBODY, Share
from .priority_queue import PriorityQueue, TakeSlot
from .queued_choice import Pace, QueuedChoice, unknown_pace


class RequestQueue:
    """Two queues: batch requests wait behind all interactive ones, streams to resume included."""

    def __init__(self) -> None:
        self.interactive = PriorityQueue()
        self._batch = PriorityQueue()
        self._arrivals = itertools.count()

    def __len__(self) -> int:
        return len(self.interactive) + len(self._batch)

    @property
    def policy(self) -> OverloadPolicy:
        """Which new request of a key is next."""
        return self.interactive.policy

    @policy.setter
    def policy(self, policy: OverloadPolicy) -> None:
        if policy != self.policy:
            self.interactive.set_policy(policy)
            self._batch.set_policy(policy)

    def add_request(
        self,
        count: int,
        *,
        limit: int,
        now: float,
        needs: frozenset[str] = frozenset(),
        share: Share = ANYBODY,
        pace: Callable[[], Pace] = unknown_pace,
    ) -> list[QueuedChoice]:
        """Queues all `count` choices of a new request; QueueFullError or QueueShareError.

        A request that finds no other new request queued is always taken: one with more choices
        than `limit` could never be served otherwise. Streams to resume do not count. Each priority
        has the whole limit, so that batch requests cannot shut out others. A full queue makes room
        for a key that has less in it than the one with the most.
        """
        queue = self._of(share.is_batch)
        self._check_share(queue, count, limit, share, pace)
        new = queue.num_new
        if new and new + count > limit and not self._make_room(queue, count, limit, share, pace):
            raise _full(new, limit, count, self._wait(queue, share.key, now, pace))
        loop = asyncio.get_running_loop()
        account = queue.open_account(share.key)
        choices = [
            QueuedChoice(
                next(self._arrivals),
                now,
                loop.create_future(),
                needs=needs,
                key=share.key,
                account=account,
                prompt_tokens=share.prompt_tokens,
                is_batch=share.is_batch,
            )
            for _ in range(count)
        ]
        for choice in choices:
            choice.siblings = choices
            queue.add(choice)
        return choices

    def enqueue(self, choice: QueuedChoice) -> None:
        """Queues a choice that had a slot again: before all new ones of its priority."""
        self._of(choice.is_batch).enqueue(choice)

    def hold(self, choice: QueuedChoice) -> None:
        """A worker accepted a sibling of it: it is not passed over by requests that begin later."""
        choice.is_held = True
        self._of(choice.is_batch).hold(choice)

    def remove(self, choice: QueuedChoice) -> None:
        """Takes a choice out; no-op for one that is not queued."""
        self._of(choice.is_batch).remove(choice)

    def assign_slots(self, take_slot: TakeSlot, *, now: float, pace: Callable[[], Pace]) -> None:
        """Gives slots to choices in order, until `take_slot` finds none."""
        if self.interactive.assign_slots(take_slot, now=now, pace=pace):
            self._batch.assign_slots(take_slot, now=now, pace=pace)

    def had_turn(self, choice: QueuedChoice) -> bool:
        """Whether first in, first out would have served it already, by the slots given so far."""
        return self._of(choice.is_batch).had_turn(choice)

    def reject(self, choice: QueuedChoice, error: Exception) -> None:
        """Takes a queued choice out and fails it with this error."""
        self.remove(choice)
        choice.slot_future.set_exception(error)

    def reject_new(self, error: Exception) -> None:
        """Fails the choices of requests that no worker has accepted."""
        unserved = itertools.chain(self.interactive.unserved(), self._batch.unserved())
        for choice in [c for c in unserved if not c.is_held]:
            if choice.slot_future.done():
                self.remove(choice)
            else:
                self.reject(choice, error)

    def reject_all(self, *, new_error: Exception, resume_error: Exception) -> None:
        """Empties the queue; new requests and streams to resume fail with different errors."""
        choices = list(self)
        self.interactive.clear()
        self._batch.clear()
        for choice in choices:
            if not choice.slot_future.done():
                choice.slot_future.set_exception(resume_error if choice.digest else new_error)

    def __iter__(self) -> Iterator[QueuedChoice]:
        return itertools.chain(self.interactive, self._batch)

    def streams_to_resume(self) -> list[QueuedChoice]:
        """Choices that a worker had begun to answer, in order."""
        return [*self.interactive.streams, *self._batch.streams]

    def oldest_wait(self, now: float) -> float:
        """Seconds that the oldest choice has been queued; 0 when the queue is empty."""
        times = (queue.oldest_queued_at() for queue in (self.interactive, self._batch))
        return max((now - time for time in times if time is not None), default=0.0)

    def _of(self, is_batch: bool) -> PriorityQueue:
        return self._batch if is_batch else self.interactive

    def _check_share(
        self, queue: PriorityQueue, count: int, limit: int, share: Share, pace: Callable[[], Pace]
    ) -> None:
        if share.queue_share is None:
            return
        most, own = max(int(limit * share.queue_share), 1), queue.num_new_of(share.key)
        if own and own + count > most:
            raise QueueShareError(
                f"{own} requests of this key wait, of at most {most}, {count} more asked. Try "
                "again later.",
                retry_after=_seconds(own * queue.num_keys, pace) or 1.0,
            )

    def _make_room(
        self, queue: PriorityQueue, count: int, limit: int, share: Share, pace: Callable[[], Pace]
    ) -> bool:
        """Refuses the newest requests of the key with the most, while another one has fewer."""
        own = queue.num_new_of(share.key)
        while queue.num_new + count > limit:
            if not queue.num_keys:
                return False
            line = queue.longest_line()
            if len(line) <= own + count:
                return False
            siblings = line.newest.siblings
            if any(sibling.arrival not in line.choices for sibling in siblings):
                return False
            new = queue.num_new
            error = _full(new, limit, count, _seconds(len(line) * queue.num_keys, pace) or 1.0)
            for sibling in siblings:
                if sibling.slot_future.done():
                    self.remove(sibling)  # its client has disconnected
                else:
                    self.reject(sibling, error)
        return True

    def _wait(self, queue: PriorityQueue, key: str, now: float, pace: Callable[[], Pace]) -> float:
        """Seconds until what the key has queued is served, by turns with the others'."""
        ahead = max(queue.num_new_of(key), 1) * max(queue.num_keys, 1)
        return _seconds(min(ahead, queue.num_new), pace) or min(self.oldest_wait(now), 30.0)


def _full(new: int, limit: int, count: int, seconds: float) -> QueueFullError:
    return QueueFullError(
        f"The queue is full: {new} of at most {limit} requests wait, {count} more asked. "
        f"There should be room in about {seconds:.0f} s. Try again later.",
        retry_after=seconds,
    )


def _seconds(requests: int, pace: Callable[[], Pace]) -> float:
    """Until so many are served at this pace; 0: it is not known."""
    slots, service_seconds = pace()
    return requests * service_seconds / slots if slots and service_seconds else 0.0

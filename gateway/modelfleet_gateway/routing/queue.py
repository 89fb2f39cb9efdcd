"""The waiting line of one model: bounded, in order of arrival, streams to resume ahead of all."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..errors import QueueFullError

Place = TypeVar("Place")


@dataclass(slots=True, eq=False)
class Waiter(Generic[Place]):
    """One choice that waits for a worker."""

    number: int  # order of arrival; kept when it comes back, so that it stands at the head again
    since: float  # seconds on the loop's clock
    turn: asyncio.Future[Place]
    digest: str = ""  # a stream to resume: only on a worker of this model_digest
    revision: str = ""  # of the worker that it was on last
    avoid: str = ""  # the worker that failed it last

    @property
    def order(self) -> tuple[bool, int]:
        """Streams to resume first, then by arrival."""
        return (not self.digest, self.number)


class WaitingLine(Generic[Place]):
    """Everyone who waits for a worker of one model."""

    def __init__(self) -> None:
        self._waiters: list[Waiter[Place]] = []  # sorted by order
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._waiters)

    def admit(self, count: int, *, limit: int, now: float) -> list[Waiter[Place]]:
        """Places for all choices of one new request, or QueueFullError for all of them.

        A request that finds no other new request waiting always comes in: one with more choices
        than `limit` could never be served otherwise. Streams to resume do not count.
        """
        new = len(self) - len(self.streams())
        if new and new + count > limit:
            raise QueueFullError(
                f"The queue is full: {new} of at most {limit} requests wait, {count} more asked. "
                "Try again later.",
                retry_after=min(self.oldest_wait(now), 30.0),
            )
        loop = asyncio.get_running_loop()
        waiters = [Waiter(next(self._numbers), now, loop.create_future()) for _ in range(count)]
        for waiter in waiters:
            self.join(waiter)
        return waiters

    def join(self, waiter: Waiter[Place]) -> None:
        """Stands in line, at the place that its order gives."""
        bisect.insort(self._waiters, waiter, key=lambda w: w.order)

    def leave(self, waiter: Waiter[Place]) -> None:
        """Goes away; no-op for one that is not in line."""
        with contextlib.suppress(ValueError):
            self._waiters.remove(waiter)

    def serve(self, place: Callable[[Waiter[Place]], Place | None]) -> None:
        """Gives places out in order until nobody can be placed.

        A stream whose digest has no worker is passed over. New requests are alike: where the first
        finds no place, none does.
        """
        index = 0
        while index < len(self._waiters):
            waiter = self._waiters[index]
            if waiter.turn.done():  # its client went away just now
                del self._waiters[index]
                continue
            found = place(waiter)
            if found is not None:
                del self._waiters[index]
                waiter.turn.set_result(found)
            elif waiter.digest:
                index += 1
            else:
                return

    def dismiss(self, *, fresh: Exception, resuming: Exception) -> None:
        """Sends everyone away with an error."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.turn.done():
                waiter.turn.set_exception(resuming if waiter.digest else fresh)

    def streams(self) -> list[Waiter[Place]]:
        """Those that wait to be resumed, in order."""
        return self._waiters[: bisect.bisect(self._waiters, (True, -1), key=lambda w: w.order)]

    def send_away(self, waiter: Waiter[Place], error: Exception) -> None:
        """It can never be served."""
        self._waiters.remove(waiter)
        waiter.turn.set_exception(error)

    def oldest_wait(self, now: float) -> float:
        """Seconds that the one who waits longest has waited; 0: nobody waits."""
        return max((now - waiter.since for waiter in self._waiters), default=0.0)

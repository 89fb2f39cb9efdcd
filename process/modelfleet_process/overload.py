"""Which waiting request gets the next slot when more come than the workers keep up with: pure.

Asked by the gateway's queue and by the simulated one, so that what is simulated is what runs.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

Order = Literal["Fifo", "NewestFirst"]
DEFAULT_TARGET: Final = 1.2  # seconds
SHARE_OF_TTFT: Final = 0.6  # of a target for the first token: so long the oldest may wait
MARGIN: Final = 2.0  # slots may become free at half the pace that is counted on


@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadPolicy:
    """What `spec.queue.overload` says; times in seconds."""

    order: Order = "Fifo"
    target: float = DEFAULT_TARGET  # the oldest may wait for so long before the newest goes first
    hold_timeout: float = 600.0


def most_admitted(policy: OverloadPolicy, target_in_flight: int) -> int | None:
    """Requests that one worker gets at once, newest first; None: as many as it has slots.

    `target_in_flight`: requests at which a worker keeps its latency; 0: not known. In order a
    worker gets as many as it has slots: who waits is late anyway, and larger batches serve more.

    Newest first, target 16 -> 16; target 0, or in order -> None.
    """
    return target_in_flight if policy.order == "NewestFirst" and target_in_flight > 0 else None


def newest_is_next(
    policy: OverloadPolicy,
    *,
    oldest_wait: float,
    waiting: int,
    slots: int,
    service_seconds: float,
) -> bool:
    """Whether the slot that is free now goes to the newest request, and not to the oldest.

    So it is once the oldest has waited past the target: whoever comes now is served in time, where
    first in, first out would serve everyone late. But only while all who wait could still be
    served in order before the oldest's hold timeout, at half the pace of `slots` requests each
    `service_seconds` (0: not known, so in order). While slots come at least at that pace, nobody's
    hold timeout ends that would not have ended first in, first out: after the last time that the
    newest was taken all who waited then are served in order within the time that was counted on,
    and whoever came later stands where first in, first out would have him.

    Target 1.2, hold timeout 60; 40 wait, 8 slots of 3 s each: served within 30 s. The oldest waits
    for 1 s -> False; 5 s -> True; 31 s -> False.
    """
    if policy.order == "Fifo" or oldest_wait <= policy.target:
        return False
    if slots <= 0 or service_seconds <= 0:
        return False
    served_within = math.ceil(waiting / slots) * MARGIN * service_seconds
    return oldest_wait + served_within <= policy.hold_timeout


class FifoTurns:
    """Who would have been served already, first in, first out, by the slots that were given so far.

    If slots come slower than `newest_is_next` counted on (a worker was lost), such a request is not
    refused when its hold timeout ends: it had its turn, and is next. Requests are numbers; each is
    to `arrive`, in order, and then to be served or to leave.
    """

    __slots__ = ("_left", "_line", "_owed", "_served")

    def __init__(self) -> None:
        self._line: deque[tuple[float, int]] = deque()  # had no turn yet; with their hold timeouts
        self._served: set[int] = set()  # of the line: got a slot before their turn
        self._left: set[int] = set()  # of the line: wait no more
        self._owed: set[int] = set()  # not in the line: had their turn, and wait

    def arrive(self, request: int, now: float, hold_timeout: float) -> None:
        """It waits from now on."""
        self._trim(now)
        self._line.append((now + hold_timeout, request))

    def serve(self, request: int, now: float) -> None:
        """It got a slot: that is the turn of the first in line."""
        if request in self._owed:
            self._owed.remove(request)
        else:
            self._served.add(request)
        self._trim(now)
        if self._line:
            _, first = self._line.popleft()
            if first in self._served:
                self._served.remove(first)
            else:
                self._owed.add(first)

    def leave(self, request: int) -> None:
        """It waits no more, and got no slot."""
        if request in self._owed:
            self._owed.remove(request)
        else:
            self._left.add(request)

    def had_turn(self, request: int) -> bool:
        """Whether it waits though it would have been served."""
        return request in self._owed

    def clear(self) -> None:
        """Nobody waits."""
        for kept in (self._line, self._served, self._left, self._owed):
            kept.clear()

    def _trim(self, now: float) -> None:
        """Who left, or whose hold timeout is over, has no turn."""
        line = self._line
        while line and (line[0][1] in self._left or line[0][0] < now):
            _, gone = line.popleft()
            self._left.discard(gone)
            self._served.discard(gone)

"""A fleet that knows the trace: workers are ready when they are needed, and no request waits.

It is a search, and its cost is not proved to be the least: the count that keeps so many requests in
flight on each worker, started a cold start ahead, kept where that is cheaper than another start.
The number in flight is the highest with which 99 % keep the SLO.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush

from modelfleet_process.calibration import Calibration

from .scaler import Seen
from .trace import Trace

ENOUGH = 0.99  # attainment


@dataclass(slots=True)
class Clairvoyant:
    """Follows a schedule: how many replicas to have asked for, each second from `begins` on."""

    schedule: list[int]
    begins: float
    interval: float = 1.0

    @property
    def first(self) -> int:
        """Before the trace begins."""
        return self.schedule[0]

    def decide(self, seen: Seen) -> tuple[int, str]:
        """What comes."""
        place = int(seen.now - self.begins + 0.5)
        return self.schedule[min(max(place, 0), len(self.schedule) - 1)], "clairvoyant"


def in_flight(trace: Trace, calibration: Calibration, batch: int) -> list[int]:
    """Most requests in flight in each second, if each is served at once in a batch of this size.

    Such a batch shares its worker: each waits for the prefills of all others, too.
    """
    step = calibration.step_time(batch, 0)
    ends: list[float] = []
    place, most = 0, []
    for second in range(math.ceil(trace.seconds) + 1):
        while ends and ends[0] <= second:
            heappop(ends)
        peak = len(ends)
        while place < len(trace) and (at := trace.arrivals[place]) < second + 1:
            while ends and ends[0] <= at:
                heappop(ends)
            prefill = batch * trace.prompts[place] * calibration.prefill_token_seconds
            heappush(ends, at + prefill + trace.answers[place] * step)
            peak = max(peak, len(ends))
            place += 1
        most.append(peak)
    return most


def schedule(demand: list[int], each: float, start: float, most: int) -> tuple[list[int], float]:
    """The replicas of each second and when the first one is: `start` seconds ahead of the demand.

    `each`: requests in flight of one. The n-th replica is kept over a gap that is shorter than a
    start, since another start costs as much.
    """
    lead = math.ceil(start) + 1
    needed = [min(math.ceil(count / each - 1e-9), most) for count in demand]
    steps = [0] * (lead + len(needed) + 2)
    for level in range(1, max(needed, default=0) + 1):
        is_up = [n >= level for n in needed]
        end = -math.inf  # of the interval that is open, in seconds of the demand
        begin = 0
        for second in itertools.chain((s for s, up in enumerate(is_up) if up), (math.inf,)):
            if second - end > lead + 1:
                if end > -math.inf:
                    steps[begin] += 1
                    steps[int(end) + lead + 1] -= 1
                if second < math.inf:
                    begin = int(second)  # asked for `lead` seconds before it is needed
            end = second
    counts = list(itertools.accumulate(steps))
    return counts, -float(lead)


def search(low: float, high: float, attainment: Callable[[float], float], tries: int = 5) -> float:
    """The most requests in flight of a worker with which 99 % keep the SLO; else `low`.

    Where `low` itself keeps it for fewer, as many as with it.
    """
    enough = min(ENOUGH, attainment(low) - 0.002)
    for _ in range(tries):
        middle = (low + high) / 2
        if attainment(middle) >= enough:
            low = middle
        else:
            high = middle
    return low

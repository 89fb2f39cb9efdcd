"""What became of each request, and how the fleet went, in arrays."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from .worker import Bill

# Of a request.
PENDING, DONE, QUEUE_FULL, TIMED_OUT, TOO_LONG, NO_WORKER = range(6)
OUTCOMES: Final = {
    "done": DONE,
    "unfinished a day after the last arrival": PENDING,
    "refused: queue full": QUEUE_FULL,
    "refused: holdTimeout over": TIMED_OUT,
    "refused: no worker to come": NO_WORKER,
    "refused: too long for context or cache": TOO_LONG,
}


@dataclass(slots=True)
class Requests:
    """One entry for each request of the trace; NaN: it did not come to that."""

    state: bytearray
    taken: array[float]  # seconds, when a worker took it
    first: array[float]  # its first token
    last: array[float]

    @classmethod
    def of(cls, count: int) -> Requests:
        """None has happened yet."""
        nothing = array("d", [math.nan]) * count
        return cls(bytearray(count), nothing[:], nothing[:], nothing[:])


@dataclass(slots=True)
class Sample:
    """The fleet at one moment."""

    at: float
    waiting: int
    running: int
    wanted: int
    existing: int
    ready: int


@dataclass(slots=True)
class History:
    """What the fleet did."""

    samples: list[Sample] = field(default_factory=list)
    changes: int = 0  # of the wanted count, from the first request on
    decided_by: dict[str, float] = field(default_factory=dict)  # seconds that each part decided
    reasons: Counter[str] = field(default_factory=Counter)  # changes of the count by each part
    longest_refused_wait: float = 0.0  # of a request whose holdTimeout was over
    met_cold: int = 0  # requests that found no ready worker
    interrupted: int = 0  # workers that were taken back, or told that they will be
    moved: int = 0  # streams that were handed over while their worker still ran
    rerun: int = 0  # streams whose worker was gone before they had moved
    hits: int = 0  # starts that were claims
    misses: int = 0  # starts for which a pool would have fitted and had no standby
    seconds_saved: float = 0.0  # by claims, beside a start as it was measured
    standby_hours: float = 0.0
    notes: list[str] = field(default_factory=list)  # what a person should know of this run
    created: int = 0
    plans: int = 0
    costs: dict[str, float] = field(default_factory=dict)
    """Money where prices are known: for workers `onDemand` and on `spot`, and for `standby`s."""
    bill: Bill = field(default_factory=Bill)
    ended: float = 0.0

    @property
    def cost(self) -> float:
        """All of it."""
        return sum(self.costs.values())

    def pay(self, what: str, money: float) -> None:
        """Adds to one of `costs`."""
        self.costs[what] = self.costs.get(what, 0.0) + money


class Sampler:
    """Keeps samples at most every `interval` seconds, which doubles when there are too many."""

    MOST: Final = 4000

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._interval = 1.0

    def add(self, sample: Sample) -> None:
        """The highest load within an interval is what is kept of it."""
        if self.samples and sample.at - self.samples[-1].at < self._interval:
            kept = self.samples[-1]
            if sample.waiting + sample.running > kept.waiting + kept.running:
                kept.waiting, kept.running = sample.waiting, sample.running
            kept.wanted = max(kept.wanted, sample.wanted)
            kept.existing = max(kept.existing, sample.existing)
            kept.ready = max(kept.ready, sample.ready)
            return
        self.samples.append(sample)
        if len(self.samples) > self.MOST:
            self._interval *= 2
            samples, self.samples = self.samples, []
            for kept in samples:
                self.add(kept)

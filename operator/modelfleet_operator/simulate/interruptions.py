"""When the provider takes spot workers back: each by itself, and in bursts over a zone."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from .scenario import Spot


@dataclass(frozen=True, slots=True)
class Interruption:
    """At this moment these workers' nodes are gone."""

    at: float
    workers: tuple[str, ...]  # names


class Interruptions:
    """Draws the next interruption of a fleet; another model has the same two methods."""

    def __init__(self, spot: Spot, seed: int) -> None:
        self._spot = spot
        self._chance = random.Random(seed)
        self._bursts = [self._gap(spot.burst.per_hour) for _ in range(spot.zones)]

    def of_worker(self, ordinal: int, now: float) -> float:
        """When a worker that gets its node now is taken back by itself; inf: never."""
        return now + self._gap(self._spot.per_hour)

    def zone(self, started: int) -> int:
        """Of the worker that is the n-th to be started."""
        return started % self._spot.zones

    @property
    def next_burst(self) -> float:
        """inf: there is none."""
        return min(self._bursts)

    def burst(self, workers: Iterable[tuple[str, int]]) -> Interruption:
        """The next burst, of workers with their zones; draws the one after it."""
        at = min(self._bursts)
        zone = self._bursts.index(at)
        self._bursts[zone] = at + self._gap(self._spot.burst.per_hour)
        share = self._spot.burst.share
        hit = [name for name, of in workers if of == zone and self._chance.random() < share]
        return Interruption(at, tuple(hit))

    def _gap(self, per_hour: float) -> float:
        return self._chance.expovariate(per_hour / 3600) if per_hour > 0 else float("inf")

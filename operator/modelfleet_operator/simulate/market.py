"""The spot market on simulated time: where it has room, and when it takes nodes back.

One market for all accelerator classes. What happens to its zones does not depend on the fleet, so
fleets that are compared meet the same bursts and shortages.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from typing import Final

from .scenario import Spot, Spread

NEVER: Final = float("inf")


class SpotMarket:
    """Ask it at times that do not step back."""

    def __init__(self, spot: Spot, seed: int) -> None:
        self._spot = spot
        self._own = random.Random(seed)  # of workers one by one: as many draws as there are workers
        self._turn = 0
        world = random.Random(seed + 1)
        zones = range(spot.zones)
        self._burst_chances = [random.Random(world.random()) for _ in zones]
        self._shortage_chances = [random.Random(world.random()) for _ in zones]
        self._fleet_chance = random.Random(world.random())
        self._bursts = [_gap(chance, spot.burst.per_hour) for chance in self._burst_chances]
        self._singles = _gap(self._fleet_chance, spot.fleet_per_hour)
        self._short_until = [-NEVER for _ in zones]
        self._shortages = [
            _gap(chance, spot.shortage.per_hour) for chance in self._shortage_chances
        ]

    def choose_zone(self, now: float, avoid: Collection[str]) -> str:
        """For a new node: in turn, rather not one of `avoid`; empty: none has room."""
        self._pass_time(now)
        free = [zone for zone, until in enumerate(self._short_until) if until <= now]
        if not free:
            return ""
        self._turn += 1
        liked = [zone for zone in free if _name(zone) not in avoid] or free
        return _name(min(liked, key=lambda zone: (zone - self._turn) % self._spot.zones))

    def room_at(self, now: float) -> float:
        """When a zone has room that has none now."""
        self._pass_time(now)
        return max(min(self._short_until), now)

    def end_of_worker(self, now: float) -> float:
        """When a worker that gets its node now is taken back by itself."""
        return now + _gap(self._own, self._spot.per_hour)

    @property
    def next_reclaim(self) -> float:
        """Of a burst, or of one worker of the fleet."""
        return min(*self._bursts, self._singles)

    def reclaim(self, workers: Iterable[tuple[str, str]]) -> tuple[str, ...]:
        """The names of those that `next_reclaim` takes, of spot workers with their zones."""
        at, there = self.next_reclaim, list(workers)
        if at == self._singles:
            self._singles = at + _gap(self._fleet_chance, self._spot.fleet_per_hour)
            place = self._fleet_chance.random()
            return (there[int(place * len(there))][0],) if there else ()
        zone = self._bursts.index(at)
        burst, chance = self._spot.burst, self._burst_chances[zone]
        self._bursts[zone] = at + _gap(chance, burst.per_hour)
        self._begin_shortage(zone, at, burst.shortage, chance)
        own = random.Random(chance.random())
        return tuple(name for name, of in there if of == _name(zone) and own.random() < burst.share)

    def _pass_time(self, now: float) -> None:
        for zone, chance in enumerate(self._shortage_chances):
            while (at := self._shortages[zone]) <= now:
                self._begin_shortage(zone, at, self._spot.shortage.seconds, chance)
                self._shortages[zone] = at + _gap(chance, self._spot.shortage.per_hour)

    def _begin_shortage(self, zone: int, at: float, seconds: Spread, chance: random.Random) -> None:
        self._short_until[zone] = max(self._short_until[zone], at + seconds.draw(chance))


def _name(zone: int) -> str:
    return f"zone-{zone + 1}"


def _gap(chance: random.Random, per_hour: float) -> float:
    return chance.expovariate(per_hour / 3600) if per_hour > 0 else NEVER

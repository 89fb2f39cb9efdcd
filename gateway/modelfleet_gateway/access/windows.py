"""What was used in the last minute. Pure: times are passed in, in seconds on any clock."""

from __future__ import annotations

import math
from array import array
from typing import Final

MINUTE: Final = 60
CELL: Final = 2  # seconds that are counted together
# One more than a minute has: what a cell holds is forgotten when all of it is a minute old. So in
# no minute is more used than allowed, and a place is free again up to 2 s later than it could be.
CELLS: Final = MINUTE // CELL + 1
HALF_LIFE: Final = 10.0  # seconds


class MinuteWindow:
    """A sum over the last minute, in a ring of cells: 330 bytes, whatever comes."""

    __slots__ = ("_cell", "_cells", "_total")

    def __init__(self) -> None:
        self._cells = array("q", bytes(8 * CELLS))
        self._cell = 0  # number of the latest cell since the clock's zero
        self._total = 0

    def used(self, now: float) -> int:
        """In the minute before `now`."""
        self._advance(now)
        return self._total

    def add(self, now: float, amount: int) -> None:
        """So much more was used at `now`."""
        self._advance(now)
        self._cells[self._cell % CELLS] += amount
        self._total += amount

    def correct(self, then: float, now: float, amount: int) -> None:
        """What was added at `then` was so much more, or less. Older than a minute: no matter."""
        self._advance(now)
        cell = int(then // CELL)
        if self._cell - cell < CELLS:
            amount = max(amount, -self._cells[cell % CELLS])
            self._cells[cell % CELLS] += amount
            self._total += amount

    def wait(self, now: float, excess: int) -> float:
        """Seconds until so much of it is forgotten; a minute if it never is that much."""
        self._advance(now)
        freed = 0
        for age in range(CELLS - 1, -1, -1):
            cell = self._cell - age
            freed += self._cells[cell % CELLS]
            if freed >= excess:
                return max((cell + CELLS) * CELL - now, 0.0)
        return float(MINUTE)

    def _advance(self, now: float) -> None:
        cell = int(now // CELL)
        passed = cell - self._cell
        if passed <= 0:
            return
        if passed >= CELLS:
            self._cells = array("q", bytes(8 * CELLS))
            self._total = 0
        else:
            for number in range(self._cell + 1, cell + 1):
                self._total -= self._cells[number % CELLS]
                self._cells[number % CELLS] = 0
        self._cell = cell


class Fading:
    """A sum whose parts lose half of their weight every 10 s."""

    __slots__ = ("_at", "_value")

    def __init__(self) -> None:
        self._value = 0.0
        self._at = 0.0

    def add(self, now: float, amount: int) -> None:
        """So much more."""
        self._value = self.value(now) + amount
        self._at = now

    def value(self, now: float) -> float:
        """What is left of it."""
        return self._value * math.exp2(-max(now - self._at, 0.0) / HALF_LIFE)

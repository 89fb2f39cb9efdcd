"""Workers that fail, or compute far slower than they did, get nothing for a while. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

MOST_FAILURES: Final = 3  # in a row, of any requests
FIRST_EJECTION: Final = 10.0  # seconds, doubled with each in a row
LONGEST_EJECTION: Final = 300.0
SLOW: Final = 8.0  # times as long as its steps usually take
MOST_SLOW: Final = 5  # Stats in a row that say so, of which one comes each second
LEARNING: Final = 1 / 64  # weight of the latest step time in the usual one


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How calls to a worker went lately; times in seconds on one clock."""

    failures: int = 0  # in a row
    usual_step: float = 0.0  # seconds; 0: not known
    slow: int = 0  # Stats in a row with steps that are far longer
    ejections: int = 0  # in a row
    ejected_until: float = 0.0
    is_failing: bool = False  # that is why, and not that it is slow

    def is_ejected(self, now: float) -> bool:
        """Whether others are preferred."""
        return now < self.ejected_until


HEALTHY: Final = Health()


def after_failure(health: Health, now: float) -> Health:
    """A call failed there, and that may be the worker's fault.

    The third in a row -> ejected for 10 s. Then one request fails -> for 20 s; or is answered -> as
    if nothing had been.
    """
    failures = health.failures + 1
    if failures < MOST_FAILURES or health.is_ejected(now):
        return replace(health, failures=failures)
    return _eject(replace(health, failures=failures), now, is_failing=True)


def after_answer(health: Health) -> Health:
    """It sent a request's first token."""
    if not health.is_failing:
        return replace(health, failures=0)
    return replace(health, failures=0, ejections=0, ejected_until=0.0, is_failing=False)


def after_stats(health: Health, step_seconds: float, now: float) -> Health:
    """It computes, and its steps take so long.

    What is usual is learned from itself: workers of one model may run on different processors. 5 ms
    for minutes, then 60 ms for 5 s -> ejected for 10 s.
    """
    if step_seconds <= 0 or health.is_ejected(now):
        return health
    usual = health.usual_step or step_seconds
    if step_seconds > SLOW * usual:
        slow = health.slow + 1
        if slow < MOST_SLOW:
            return replace(health, slow=slow)
        return _eject(replace(health, slow=0), now, is_failing=False)
    usual += LEARNING * (step_seconds - usual)
    ejections = health.ejections if health.is_failing else 0
    return replace(health, usual_step=usual, slow=0, ejections=ejections)


def _eject(health: Health, now: float, *, is_failing: bool) -> Health:
    pause = min(FIRST_EJECTION * 2**health.ejections, LONGEST_EJECTION)
    return replace(
        health,
        ejections=health.ejections + 1,
        ejected_until=now + pause,
        is_failing=is_failing,
    )


class Watched(Protocol):
    """A worker, as far as it matters here."""

    @property
    def health(self) -> Health: ...  # noqa: D102 - how calls to it went


W = TypeVar("W", bound=Watched)


def without_outliers(able: Sequence[W], ready: Iterable[W], now: float) -> Sequence[W]:
    """Of those that could take a request now, the ones that should; `ready`: full ones, too.

    Half of the ready ones are ejected at most, so never the last one: beyond that it is the load or
    a request, and not they. One that is slow takes what no other has a slot for; one that fails
    takes nothing meanwhile.
    """
    ejected = [w.health.is_ejected(now) for w in ready]
    if 2 * sum(ejected) > len(ejected):
        return able
    well = [w for w in able if not w.health.is_ejected(now)]
    return well or [w for w in able if not w.health.is_failing]

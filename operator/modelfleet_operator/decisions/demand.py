"""How many requests come, how unevenly, and how much more came than was said of the near future.

Sampled every two seconds or so. `horizon` is the time that a new worker takes until it is ready:
what is needed then must be started now.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import TypeVar

SHORT, LONG = 20.0, 120.0  # seconds of the two windows; the short one is no longer than half
SHORTEST = 4.0  # seconds of a window after a pause
NOISE_TIME = 1800.0  # seconds, after which a sample counts for 1/e
ERRORS, ERROR_PAUSE = 120, 30.0  # an hour of the forecast's errors, and seconds between two
BUSY, BUSY_SLOT = 12, 300.0  # an hour's busiest seconds, and seconds of a slot
JUMP = 1.0  # deviations above the mean, beyond which a short window is no noise
RING = 60  # counts that are kept
SAMPLED = 2.0  # seconds in which requests came that were counted after a longer time

Count = tuple[float, float]  # Unix seconds, and requests that came until then
Said = tuple[float, float, float]  # when, the busiest seconds, and the forecast
Entry = TypeVar("Entry", bound=tuple[float, ...])


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Requests a second."""

    counts: tuple[Count, ...] = ()  # not kept over a restart
    said: tuple[Said, ...] = ()  # within the horizon; not kept
    errors: tuple[float, ...] = ()  # how much more came within the horizon than was said
    error_at: float = 0.0  # of the latest of them; 0: not known
    busy: tuple[tuple[float, float], ...] = ()  # slots, and the most in a short window of each
    noise: float = 0.0  # mean square of how one short window differs from the next, halved
    load: float = 0.0  # mean of what came in the same time
    began_at: float = 0.0  # when requests came again after a pause; not kept
    short: float = 0.0  # in the short window
    base: float = 0.0  # in the long one

    @property
    def level(self) -> float:
        """What comes now, and is taken to go on: the mean, or a jump that is no noise."""
        return max(self.base, self.short - JUMP * self._deviation(self.short))

    @property
    def deviation(self) -> float:
        """Standard deviation of the short window at this level."""
        return self._deviation(self.level)

    def _deviation(self, level: float) -> float:
        """Noise grows with the root of what comes, so it is kept per request."""
        return math.sqrt(self.noise / self.load * level) if self.load else 0.0

    def busiest(self, now: float) -> float:
        """The most in a short window of the last hour."""
        since = now - BUSY * BUSY_SLOT
        return max((most for at, most in self.busy if at + BUSY_SLOT > since), default=0.0)

    def error(self, quantile: float, now: float) -> float:
        """Of the last hour: what a margin must be that is enough so often; 0 at least."""
        age = int(max(now - self.error_at, 0.0) / ERROR_PAUSE) if self.error_at else 0
        recent = self.errors[age - ERRORS :] if 0 < age < ERRORS else self.errors
        if age >= ERRORS:
            return 0.0
        left = math.floor((1 - quantile) * ERRORS + 1e-9)  # so many may be larger
        ordered = sorted(recent, reverse=True)
        return ordered[left] if left < len(ordered) else 0.0

    def take(self, now: float, came: float, horizon: float, service: float = 0.0) -> Demand:
        """`came`: requests since the last call. A clock that steps back begins anew.

        `service`: seconds that a request takes on a full worker, 0: not known. What comes within
        it is there at once, so shorter bursts are none.
        """
        window = min(max(service, SHORT), LONG / 2)
        counts = self.counts
        if counts and now <= counts[-1][0]:
            return replace(self, counts=((now, counts[-1][1] + came),), said=(), began_at=now)
        before = counts[-1][1] if counts else 0.0
        elapsed = min(now - counts[-1][0], 60.0) if counts else 0.0
        if elapsed > 2 * SAMPLED:
            counts = (*counts, (now - SAMPLED, before))  # else they would seem to come slowly
        counts = _thin((*counts, (now, before + came)), 2 * LONG / RING, now - LONG - 5)
        # After a pause what came since then counts.
        began_at = self.began_at if self.base else max(now - min(elapsed, SAMPLED), 0.0)
        known = max(now - began_at, SHORTEST)
        short, long = rate(counts, now, min(window, known)), rate(counts, now, min(LONG, known))
        noise, load = self.noise, self.load
        if elapsed and known >= 2 * window:
            weight = min(elapsed / NOISE_TIME, 1.0)
            before = 2 * rate(counts, now, 2 * window) - short
            noise += weight * ((short - before) ** 2 / 2 - noise)
            load += weight * ((short + before) / 2 - load)
        changed = replace(
            self,
            counts=counts,
            base=long,
            short=short,
            busy=_note_busy(self.busy, now, short),
            noise=noise if noise > 1e-12 else 0.0,
            load=load if load > 1e-12 else 0.0,
            began_at=began_at,
        )
        changed = _judge(changed, now, horizon)
        said = _thin((*self.said, (now, short, changed.level)), horizon / 30, now - horizon - 10)
        return replace(changed, said=said)


def _note_busy(
    busy: tuple[tuple[float, float], ...], now: float, short: float
) -> tuple[tuple[float, float], ...]:
    slot = now // BUSY_SLOT * BUSY_SLOT
    if busy and busy[-1][0] == slot:
        return busy if short <= busy[-1][1] else (*busy[:-1], (slot, short))
    return (*busy, (slot, short))[-BUSY - 1 :] if short else busy


def _judge(demand: Demand, now: float, horizon: float) -> Demand:
    """Compares what came with what was said a horizon ago; what is not kept was no error."""
    if 0 <= now - demand.error_at < ERROR_PAUSE:
        return demand
    place = bisect_right(demand.said, (now - horizon, math.inf, math.inf)) - 1
    if place < 0:
        return demand
    busiest = max(demand.short, *(entry[1] for entry in demand.said[place:]))
    error = float(f"{busiest - demand.said[place][2]:.3g}")
    if error <= 0:
        return demand
    since = int((now - demand.error_at) / ERROR_PAUSE) - 1 if demand.error_at else 0
    pause = (0.0,) * min(max(since, 0), ERRORS)
    errors = (*demand.errors, *pause, error)[-ERRORS:]
    return replace(demand, errors=errors, error_at=now)


def rate(counts: tuple[Count, ...], now: float, window: float) -> float:
    """Requests a second within it; what came before the first count is not known, and none."""
    since = now - window
    last = counts[-1][1]
    place = bisect_right(counts, (since, math.inf))
    if place == 0:
        return (last - counts[0][1]) / window
    at, count = counts[place - 1]
    if place < len(counts):
        after, more = counts[place]
        count += (more - count) * (since - at) / (after - at)
    return (last - count) / window


def _thin(entries: tuple[Entry, ...], pause: float, since: float) -> tuple[Entry, ...]:
    """Without those before `since`; the one before the last goes if it is too near."""
    if len(entries) > 2 and entries[-1][0] - entries[-3][0] < pause:
        entries = (*entries[:-2], entries[-1])
    place = 0
    while place + 1 < len(entries) and entries[place + 1][0] <= since:
        place += 1
    return entries[place:] if place else entries

"""How many requests come, how unevenly, and how wrong what was said of the near future was.

Sampled every two seconds or so. `horizon` is the time that a new worker takes until it is ready:
what is needed then must be started now.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import TypeVar

SHORT, LONG = 20.0, 120.0  # seconds of the two windows
VARIANCE_TIME, GATE_TIME = 900.0, 3600.0  # seconds, after which a sample counts for 1/e
ERRORS, ERROR_PAUSE = 120, 30.0  # kept of the forecast, and seconds between two at least
RING = 60  # counts that are kept
GATE = 0.9  # the trend counts while its error is below so much of that without it

Count = tuple[float, float]  # Unix seconds, and requests that came until then
Said = tuple[float, float, float, float]  # when, the busiest seconds, without and with the trend
Entry = TypeVar("Entry", bound=tuple[float, ...])


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Requests a second."""

    counts: tuple[Count, ...] = ()  # not kept over a restart
    said: tuple[Said, ...] = ()  # within the horizon; not kept
    errors: tuple[float, ...] = ()  # how much more came within the horizon than was said
    error_at: float = 0.0  # of the latest of them
    variance: float = 0.0  # of the short window around the long one
    plain_error: float = 0.0  # of the forecast without the trend
    trend_error: float = 0.0  # of that with it
    began_at: float = 0.0  # when requests came again after a pause; not kept
    short: float = 0.0  # in the short window
    base: float = 0.0  # in the long one
    trend: float = 0.0  # what is added to it; 0 while the gate is closed

    @property
    def forecast(self) -> float:
        """What comes on average until the horizon."""
        return self.base + self.trend

    @property
    def deviation(self) -> float:
        """Standard deviation of the busy seconds around the mean."""
        return math.sqrt(self.variance)

    def error(self, quantile: float) -> float:
        """Of the last hour or so: what a margin must be that is enough so often; 0 at least."""
        if not self.errors:
            return 0.0
        ordered = sorted(self.errors)
        place = min(math.ceil(quantile * len(ordered)), len(ordered)) - 1
        return max(ordered[max(place, 0)], 0.0)

    def take(self, now: float, came: float, horizon: float) -> Demand:
        """`came`: requests since the last call. A clock that steps back begins anew."""
        counts = self.counts
        if counts and now <= counts[-1][0]:
            return replace(self, counts=((now, counts[-1][1] + came),), said=(), began_at=now)
        total = (counts[-1][1] if counts else 0.0) + came
        elapsed = min(now - counts[-1][0], 60.0) if counts else 0.0
        length = max(60.0, horizon / 2)  # of the trend's windows
        counts = _thin((*counts, (now, total)), 2 * length / RING, now - 2 * length - 5)
        short, long = rate(counts, now, SHORT), rate(counts, now, LONG)
        base = long
        # After a pause both windows rise from nothing, which says nothing about what goes on.
        began_at = self.began_at if self.base else now
        known = now - began_at - LONG
        variance = self.variance
        if elapsed and known > 0:
            weight = min(elapsed / min(VARIANCE_TIME, known + elapsed), 1.0)
            variance += weight * ((short - long) ** 2 - variance)
        later = rate(counts, now, length)
        earlier = rate(counts, now, 2 * length) * 2 - later
        trend = min(max((later - earlier) / length / 2, 0.0) * (horizon + length / 2), base)
        changed = replace(
            self,
            counts=counts,
            base=base,
            short=short,
            began_at=began_at,
            variance=variance if variance > 1e-12 else 0.0,
        )
        changed = _judge(changed, now, horizon, elapsed, short, long)
        is_open = changed.trend_error < GATE * changed.plain_error
        said = changed.said
        if known > 0:
            entry = (now, short, base, base + trend)
            said = _thin((*said, entry), horizon / 30, now - horizon - 10)
        return replace(changed, said=said, trend=trend if is_open else 0.0)


def _judge(
    demand: Demand, now: float, horizon: float, elapsed: float, short: float, long: float
) -> Demand:
    """Compares what came with what was said a horizon ago."""
    place = bisect_right(demand.said, (now - horizon, math.inf)) - 1
    if place < 0 or now - horizon - demand.said[place][0] > max(horizon / 4, 10.0):
        return demand
    _, _, base, with_trend = demand.said[place]
    weight = min(elapsed / GATE_TIME, 1.0)
    plain_error = demand.plain_error + weight * (abs(long - base) - demand.plain_error)
    trend_error = demand.trend_error + weight * (abs(long - with_trend) - demand.trend_error)
    errors, error_at = demand.errors, demand.error_at
    busiest = max(short, *(entry[1] for entry in demand.said[place:]))
    is_due = now - error_at >= ERROR_PAUSE or now < error_at
    if is_due and (busiest or base):
        told = with_trend if demand.trend else base
        errors = (*errors[1 - ERRORS :], float(f"{busiest - told:.3g}"))
        error_at = now
    return replace(
        demand, errors=errors, error_at=error_at, plain_error=plain_error, trend_error=trend_error
    )


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

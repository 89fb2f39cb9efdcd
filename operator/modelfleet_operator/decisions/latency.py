"""Whether requests keep the latency that spec.scaling.slo asks for, and what follows if not.

What counts are the gateways' own measurements. A miss while every wanted worker is there and
nothing waits means that a worker can take less than was thought.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

WINDOW = 30.0  # seconds that are judged together
ENOUGH = 20  # requests, fewer of which tell nothing
ALLOWED, FEW = 0.05, 0.025  # share of late ones: more are a miss (P95), less allow more work
MORE, LESS, MOST = 1.2, 0.98, 4.0  # what a miss and a good window do to `strain`, and its bound
STEP = 0.25  # of the replicas in force, that a miss adds


@dataclass(frozen=True, slots=True)
class Judged:
    """Counters of a gateway since its start, or a difference of two."""

    first_tokens: int = 0
    late: int = 0  # of these
    answers: int = 0
    slow: int = 0  # of these

    def plus(self, other: Judged) -> Judged:
        """The sum of both."""
        return Judged(
            self.first_tokens + other.first_tokens,
            self.late + other.late,
            self.answers + other.answers,
            self.slow + other.slow,
        )

    def since(self, before: Judged) -> Judged:
        """What came after; nothing, if the gateway began anew."""
        if self.first_tokens < before.first_tokens or self.answers < before.answers:
            return Judged()
        return Judged(
            self.first_tokens - before.first_tokens,
            max(self.late - before.late, 0),
            self.answers - before.answers,
            max(self.slow - before.slow, 0),
        )

    @property
    def missed(self) -> float:
        """Share of late first tokens or of slow answers, the higher one; NaN: too few."""
        shares = [
            late / count
            for late, count in ((self.late, self.first_tokens), (self.slow, self.answers))
            if count >= ENOUGH
        ]
        return max(shares, default=math.nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How requests fared, in windows; `strain` divides what a worker is thought to take."""

    strain: float = 1.0
    window: Judged = Judged()  # so far
    since: float = 0.0  # Unix seconds
    replicas: int = 0  # in force
    grew_at: float = 0.0
    needed: int = 0  # replicas, as the latest window's miss asks for; 0: it was none
    needed_at: float = 0.0
    share: float = 0.0  # missed in that window

    def take(self, now: float, came: Judged, load: Fleet, horizon: float) -> Latency:
        """`came`: since the last call. While new workers start, nothing is judged."""
        changed = self
        if load.replicas != self.replicas:
            grew_at = now if load.replicas > self.replicas else self.grew_at
            changed = replace(self, replicas=load.replicas, grew_at=grew_at)
        settles_at = changed.grew_at + horizon + WINDOW / 2
        if now < settles_at or load.waiting or not 0 <= now - changed.since < 4 * WINDOW:
            return replace(changed, window=Judged(), since=now)
        window = changed.window.plus(came)
        if now - changed.since < WINDOW:
            return replace(changed, window=window)
        missed = window.missed
        changed = replace(changed, window=Judged(), since=now)
        if missed > ALLOWED and load.may_grow:
            needed = load.replicas + max(math.ceil(STEP * load.replicas), 1)
            strain = min(changed.strain * MORE, MOST)
            return replace(changed, strain=strain, needed=needed, needed_at=now, share=missed)
        if missed < FEW and changed.strain > 1:
            return replace(changed, strain=max(changed.strain * LESS, 1.0))
        return changed

    def asks_for(self, now: float) -> int:
        """Replicas, because of a miss just now; 0: none was missed."""
        return self.needed if 0 <= now - self.needed_at < WINDOW else 0


@dataclass(frozen=True, slots=True)
class Fleet:
    """What is there while latency is judged."""

    replicas: int  # in force
    waiting: int  # requests in gateways' queues
    may_grow: bool  # it is below maxReplicas

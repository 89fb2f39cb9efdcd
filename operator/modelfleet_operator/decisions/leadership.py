"""Which replica leads: what a candidate decides by the Lease that it sees.

As in client-go, clocks of different machines are never compared: a Lease has expired for a
candidate when it saw no renewal for its whole duration on its own clock. The holder stops acting
`MARGIN` earlier, counted from before it asked for its last renewal, so the two never overlap.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """All in seconds. Without its leader a fleet is led again after `duration + poll` at most."""

    duration: float = 15.0  # without a renewal, after which others may take it
    margin: float = 3.0  # before that the holder has stopped acting
    renew: float = 2.0  # between renewals
    retry: float = 0.5  # after a request that failed
    poll: float = 1.0  # between reads: so soon a candidate sees that the holder released it
    request: float = 5.0  # that one request may take

    @property
    def leads_for(self) -> float:
        """How long the holder may act from when it asked for its last renewal."""
        return self.duration - self.margin


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """The Lease as its last writer left it."""

    holder: str  # identity; empty: it was released
    term: int  # leaseTransitions
    duration: float  # seconds
    renewed: str  # opaque: only whether it changes matters


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a candidate saw last, and since when it is like that (seconds, its own clock)."""

    record: LeaseRecord | None  # None: there is no Lease
    since: float


@dataclass(frozen=True, slots=True)
class Take:
    """Write the Lease with this term, if it is still as it was seen."""

    term: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Another candidate leads: ask again after this pause."""

    seconds: float


def sight(last: Sighting | None, record: LeaseRecord | None, now: float) -> Sighting:
    """What is known after reading the Lease again."""
    return last if last is not None and last.record == record else Sighting(record, now)


def candidacy(
    seen: Sighting, identity: str, now: float, *, first_term: int, poll: float
) -> Take | Wait:
    """Whether to lead now. `first_term` is for a Lease that is made anew; `poll`: see Pace."""
    record = seen.record
    if record is None:
        return Take(first_term)
    # Its identity names its address, so an earlier process of this identity has ended.
    if record.holder in ("", identity):
        return Take(record.term + 1)
    left = seen.since + record.duration - now
    return Take(record.term + 1) if left <= 0 else Wait(min(left, poll))


def first_term(seen: Sighting | None, now: float) -> int:
    """The term of a Lease that is made anew (`now`: Unix seconds): above all that were before.

    Gateways ignore views of lower terms, and they outlive a Lease that was deleted. Minutes
    since the epoch grow faster than terms do.
    """
    known = seen.record.term + 1 if seen is not None and seen.record is not None else 0
    return max(known, int(now // 60))

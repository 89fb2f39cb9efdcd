"""Which replica takes the Lease, and when: tables and a story in time."""

from __future__ import annotations

import pytest

from modelfleet_operator.decisions.leadership import (
    LeaseRecord,
    Pace,
    Sighting,
    Take,
    Wait,
    candidacy,
    first_term,
    sight,
)


def record(holder: str = "a@1", term: int = 7, renewed: str = "t0") -> LeaseRecord:
    return LeaseRecord(holder=holder, term=term, duration=12.0, renewed=renewed)


def decide(seen: LeaseRecord | None, *, since: float = 0.0, now: float = 0.0) -> Take | Wait:
    return candidacy(Sighting(seen, since), "b@2", now, first_term=100, poll=1.0)


@pytest.mark.parametrize(
    ("seen", "now", "decision"),
    [
        pytest.param(None, 0, Take(100), id="where no Lease is, one is made"),
        pytest.param(record(), 0, Wait(1.0), id="another one leads"),
        pytest.param(record(), 11.5, Wait(0.5), id="reads again the moment it expires"),
        pytest.param(record(), 12.0, Take(8), id="not renewed for its duration: the next term"),
        pytest.param(record(holder=""), 0, Take(8), id="released: taken at once"),
        pytest.param(record(holder="b@2"), 0, Take(8), id="our own from before a restart"),
    ],
)
def test_a_candidate_takes_what_no_other_holds(
    seen: LeaseRecord | None, now: float, decision: Take | Wait
):
    assert decide(seen, now=now) == decision


def test_a_lease_expires_by_the_candidates_own_clock_only():
    """Whatever time the holder writes: it lives while what it writes changes."""
    seen = sight(None, record(renewed="1970-01-01"), 1000.0)
    for now in range(1002, 1100, 2):
        seen = sight(seen, record(renewed=f"1970-01-01 {now}"), float(now))
        assert isinstance(candidacy(seen, "b@2", float(now), first_term=0, poll=1.0), Wait)
    last = seen.since
    seen = sight(seen, seen.record, last + 11.9)
    assert isinstance(candidacy(seen, "b@2", last + 11.9, first_term=0, poll=1.0), Wait)
    assert candidacy(seen, "b@2", last + 12.0, first_term=0, poll=1.0) == Take(8)


def test_the_holder_has_stopped_before_anybody_can_take_the_lease():
    """A candidate sees a renewal after the holder asked for it, never before."""
    pace = Pace()
    asked_at = 50.0
    earliest_takeover = asked_at + pace.duration
    assert asked_at + pace.leads_for < earliest_takeover
    assert pace.leads_for > 3 * pace.renew  # a lost request or two end no leader
    assert pace.duration + pace.poll < 20  # the bar for a killed leader


def test_a_lease_that_was_deleted_begins_above_the_terms_that_were():
    assert first_term(None, now=60 * 1000.0) == 1000
    assert first_term(Sighting(record(term=5000), 0.0), now=60 * 1000.0) == 5001

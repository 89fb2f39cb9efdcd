from __future__ import annotations

from modelfleet_operator.decisions.announcements import announce
from modelfleet_operator.decisions.rendering import parse, render
from modelfleet_operator.decisions.status import Status
from simulated_fleet import SimulatedFleet, deployment, policy


def told(fleet: SimulatedFleet, seconds: float, step: float = 0.5) -> list[str]:
    """Reasons of the Events while so much time passes."""
    reasons: list[str] = []
    end = fleet.now + seconds
    while fleet.now < end:
        before = fleet.status
        fleet.run(step, step)
        reasons += [a.reason for a in announce(before, fleet.status)]
    return reasons


def test_a_life_without_problems_is_told_in_a_few_words():
    fleet = SimulatedFleet(deployment())
    assert told(fleet, 10) == ["ScaledUp", "Ready"]
    assert told(fleet, 70) == ["ScaledDown"], "asleep is ready, too"
    fleet.waiting = 1
    assert told(fleet, 0.5) == ["ScaledUp", "NotReady"]
    assert told(fleet, 10) == ["Ready"]
    assert told(fleet, 200) == []


def test_a_change_is_told_when_it_begins_and_when_it_is_done():
    fleet = SimulatedFleet(deployment(scaling=policy(min_replicas=2)))
    fleet.run(10)
    fleet.change(revision="bbbb")
    assert told(fleet, 60) == ["RevisionChanged", "RolledOut"]


def test_failures_are_told_when_they_begin_when_they_last_and_when_they_end():
    fleet = SimulatedFleet(deployment(), broken={"aaaa"})
    reasons = told(fleet, 300)
    assert reasons == ["ScaledUp", "WorkerFailed", "CrashLoop"], "not each failure"
    fleet.broken.clear()
    assert sorted(told(fleet, 300)[:2]) == ["Ready", "Recovered"]


def test_a_restarted_operator_tells_nothing_again():
    fleet = SimulatedFleet(deployment())
    fleet.run(10)
    stored = parse(render(fleet.status))
    assert isinstance(stored, Status)
    fleet.reconcile()
    assert announce(stored, fleet.status) == []

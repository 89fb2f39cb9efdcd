"""What was done and the watches do not show yet."""

from __future__ import annotations

from modelfleet_operator.cluster.unseen import SHOWN_AFTER, UnseenDeeds, UnseenObjects
from simulated_fleet import worker


def objects() -> UnseenObjects[tuple[str, int]]:
    """Pairs of a uid and a number."""
    return UnseenObjects(lambda pair: pair[0], lambda cached, made: cached[1] >= made[1])


def test_what_was_made_is_there_until_the_watch_shows_it():
    unseen = objects()
    unseen.put("default/a", "u", ("u", 1), 100)
    assert unseen.shown("default/a", [], 101) == [("u", 1)]
    assert unseen.shown("default/b", [], 101) == []
    assert unseen.shown("default/a", [("u", 1)], 102) == [("u", 1)]
    assert unseen.shown("default/a", [], 103) == [], "the watch has the last word from then on"


def test_what_was_changed_is_new_until_the_watch_agrees():
    unseen = objects()
    unseen.put("default/a", "u", ("u", 2), 100)
    assert unseen.shown("default/a", [("u", 1)], 101) == [("u", 2)]
    assert unseen.shown("default/a", [("u", 3)], 102) == [("u", 3)]


def test_what_was_deleted_is_gone_until_the_watch_agrees():
    unseen = objects()
    unseen.put("default/a", "u", None, 100)
    assert unseen.shown("default/a", [("u", 1), ("v", 1)], 101) == [("v", 1)]
    assert unseen.shown("default/a", [("v", 1)], 102) == [("v", 1)]


def test_nothing_is_remembered_for_ever():
    unseen = objects()
    unseen.put("default/a", "u", ("u", 1), 100)
    assert unseen.shown("default/a", [], 100 + SHOWN_AFTER) == []
    unseen.put("default/a", "u", ("u", 1), 200)
    unseen.gone("default/a", "u")
    assert unseen.shown("default/a", [], 201) == []


def test_a_pod_is_as_we_left_it():
    deeds, pod = UnseenDeeds(), worker(0)
    deeds.routed(pod.uid, 50.0)
    assert deeds.shown(pod).unrouted_at == 50.0
    deeds.routed(pod.uid, None)
    assert deeds.shown(worker(0, unrouted_at=50.0)).unrouted_at is None
    deeds.stopped(pod.uid)
    assert deeds.shown(worker(0, failure="ended")).failure is None
    assert deeds.shown(pod).stopping
    deeds.gone(pod.uid)
    assert deeds.shown(pod) == pod

"""What was written and the watches do not show yet."""

from __future__ import annotations

from modelfleet_operator.cluster.overlay import SHOWN_AFTER, ObjectOverlay, WriteOverlay
from simulated_fleet import worker


def objects() -> ObjectOverlay[tuple[str, int]]:
    """Pairs of a uid and a number."""
    return ObjectOverlay(lambda pair: pair[0], lambda cached, made: cached[1] >= made[1])


def test_what_was_made_is_there_until_the_watch_shows_it():
    overlay = objects()
    overlay.put("default/a", "u", ("u", 1), 100)
    assert overlay.apply("default/a", [], 101) == [("u", 1)]
    assert overlay.apply("default/b", [], 101) == []
    assert overlay.apply("default/a", [("u", 1)], 102) == [("u", 1)]
    assert overlay.apply("default/a", [], 103) == [], "the watch has the last word from then on"


def test_what_was_changed_is_new_until_the_watch_agrees():
    overlay = objects()
    overlay.put("default/a", "u", ("u", 2), 100)
    assert overlay.apply("default/a", [("u", 1)], 101) == [("u", 2)]
    assert overlay.apply("default/a", [("u", 3)], 102) == [("u", 3)]


def test_what_was_deleted_is_gone_until_the_watch_agrees():
    overlay = objects()
    overlay.put("default/a", "u", None, 100)
    assert overlay.apply("default/a", [("u", 1), ("v", 1)], 101) == [("v", 1)]
    assert overlay.apply("default/a", [("v", 1)], 102) == [("v", 1)]


def test_nothing_is_remembered_for_ever():
    overlay = objects()
    overlay.put("default/a", "u", ("u", 1), 100)
    assert overlay.apply("default/a", [], 100 + SHOWN_AFTER) == []
    overlay.put("default/a", "u", ("u", 1), 200)
    overlay.gone("default/a", "u")
    assert overlay.apply("default/a", [], 201) == []


def test_a_pod_is_as_we_left_it():
    overlay, pod = WriteOverlay(), worker(0)
    overlay.routed(pod.uid, 50.0)
    assert overlay.apply(pod).draining_since == 50.0
    overlay.routed(pod.uid, None)
    assert overlay.apply(worker(0, draining_since=50.0)).draining_since is None
    overlay.stopped(pod.uid)
    assert overlay.apply(worker(0, failure="ended")).failure is None
    assert overlay.apply(pod).stopping
    overlay.gone(pod.uid)
    assert overlay.apply(pod) == pod

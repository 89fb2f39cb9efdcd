"""Which gateways are told that interactive requests wait in others."""

from __future__ import annotations

from modelfleet_operator.fleet.room import Room, waiting_elsewhere
from modelfleet_proto import fleet_pb2

MODEL = "default/tiny"


def room(*, waiting: int = 0, batch: int = 0) -> Room:
    made = Room()
    made.take(fleet_pb2.ModelSignals(model=MODEL, interactive_waiting=waiting, batch_running=batch))
    return made


def test_only_a_gateway_whose_batch_runs_is_told():
    others = [room(waiting=3), room(waiting=2, batch=5)]
    assert waiting_elsewhere(room(batch=1), others) == {MODEL: 5}
    assert waiting_elsewhere(room(waiting=9), others) == {}
    assert waiting_elsewhere(room(batch=1), [room(), room(batch=1)]) == {}


def test_who_was_told_is_told_until_nothing_waits():
    mine, other = room(batch=1), room(waiting=2)
    mine.told = waiting_elsewhere(mine, [other])
    mine.take(fleet_pb2.ModelSignals(model=MODEL))
    assert waiting_elsewhere(mine, [other]) == {MODEL: 2}
    other.take(fleet_pb2.ModelSignals(model=MODEL))
    assert waiting_elsewhere(mine, [other]) == {}


def test_what_is_the_same_is_no_news():
    said = fleet_pb2.ModelSignals(model=MODEL, interactive_waiting=2, batch_running=1)
    mine = Room()
    mine.take(said)
    assert mine.has_changed
    mine.has_changed = False
    mine.take(said)
    assert not mine.has_changed
    mine.forget(MODEL)
    assert (mine.waiting, mine.batch) == ({}, set())

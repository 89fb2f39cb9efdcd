"""A saved state decides the same again."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfleet_operator.decisions.plan import make_plan
from modelfleet_operator.errors import SnapshotError
from modelfleet_operator.explain.snapshot import Snapshot, dump_snapshot, load_snapshot
from simulated_fleet import SimulatedFleet, deployment


def snapshot(fleet: SimulatedFleet) -> Snapshot:
    return Snapshot(
        modelfleet="0.1.0",
        now=fleet.now,
        observed=fleet.observe(),
        signals=fleet.signals(),
        memory=fleet.memory,
        status=fleet.status,
    )


@given(
    steps=st.lists(
        st.tuples(
            st.floats(0.1, 90.0),
            st.integers(0, 40),
            st.integers(0, 40),
            st.sampled_from(["aaaa", "bbbb", "broken"]),
        ),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=60, deadline=None)
def test_saved_and_read_again_it_makes_the_same_plan(steps):
    fleet = SimulatedFleet(deployment(), broken={"broken"})
    for seconds, waiting, running, revision in steps:
        fleet.waiting, fleet.running = waiting, running
        if revision != fleet.deployment.revision:
            fleet.change(revision=revision)
        taken = snapshot(fleet)
        again = load_snapshot(dump_snapshot(taken))
        assert again == taken
        decided = make_plan(taken.observed, taken.signals, taken.now, taken.memory, taken.status)
        assert again.replay() == decided
        fleet.run(seconds)


def test_fields_of_a_newer_version_are_ignored():
    fleet = SimulatedFleet(deployment())
    document = json.loads(dump_snapshot(snapshot(fleet)))
    document["observed"]["deployment"]["news"] = 1
    document["later"] = {}
    assert load_snapshot(json.dumps(document)) == snapshot(fleet)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file: Invalid JSON"),
        ("[]", "the file:"),
        ("{}", "modelfleet: Field required"),
        ('{"modelfleet": "0.1.0", "now": "soon"}', "now: Input should be a valid number"),
    ],
)
def test_what_is_no_snapshot_is_refused_in_a_sentence(text, says):
    with pytest.raises(SnapshotError, match="--save FILE") as error:
        load_snapshot(text)
    assert says in str(error.value)

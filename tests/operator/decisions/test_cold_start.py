"""A wake by its phases: what it took, what it may take, and what is told meanwhile."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet_operator.decisions.cold_start import (
    CLASSES_KEPT,
    PHASES,
    WAKES_KEPT,
    WakePhase,
    expected_cold_start,
    learn_wake,
    phase_times,
    typical_wake,
    wake_phases,
    waking_since,
)
from modelfleet_operator.decisions.memory import Memory
from modelfleet_operator.decisions.observed import WorkerState
from modelfleet_operator.decisions.reasons import Reason
from modelfleet_operator.decisions.rendering import parse, render
from modelfleet_operator.decisions.startup_problem import StartupProblem
from modelfleet_operator.decisions.view import ModelView
from simulated_fleet import LOADING_TIME, SimulatedFleet, deployment, policy, stats, worker

# Created at 1000, on its node at 1030, its process runs at 1042.
PLACED = worker(placed_at=1030.0, started_at=1042.0, node="node-a")
SAID = (("Download", 1044.0), ("Imports", 1090.0), ("Weights", 1092.0), ("Warmup", 1095.0))


def test_a_wake_is_timed_by_the_times_that_its_objects_carry():
    phases = wake_phases(PLACED, SAID, ready_at=1097.0)
    assert phases == (
        WakePhase(phase="node", began=1000, ended=1030),
        WakePhase(phase="image", began=1030, ended=1042),
        WakePhase(phase="load", began=1042, ended=1044),
        WakePhase(phase="weights", began=1044, ended=1090),
        WakePhase(phase="load", began=1090, ended=1095),
        WakePhase(phase="firstToken", began=1095, ended=1097),
    )
    assert phase_times(phases, now=9999) == {
        "node": 30, "image": 12, "load": 7, "weights": 46, "firstToken": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "said", "running"),
    [
        pytest.param(worker(), (), "node", id="it waits for a node"),
        pytest.param(worker(placed_at=1030.0), (), "image", id="its image is pulled"),
        pytest.param(PLACED, (), "load", id="its process starts"),
        pytest.param(PLACED, SAID[:1], "weights", id="it downloads"),
        pytest.param(PLACED, SAID[:3], "load", id="it reads the weights"),
        pytest.param(PLACED, SAID, "firstToken", id="it warms up"),
        pytest.param(worker(), SAID[:1], "weights", id="nothing is known of its pod"),
    ],
)
def test_the_phase_that_runs_has_no_end(seen, said, running):
    *over, last = wake_phases(seen, said)
    assert (last.phase, last.ended) == (running, 0)
    assert all(phase.ended for phase in over)


MOMENTS = st.one_of(st.none(), st.floats(900, 1200))


@given(
    MOMENTS,
    MOMENTS,
    st.lists(
        st.tuples(st.sampled_from(["Download", "Weights", "Warmup", "?"]), st.floats(900, 1200)),
        max_size=6,
    ),
    st.one_of(st.just(0.0), st.floats(900, 1200)),
)
def test_whatever_clocks_say_phases_follow_each_other(placed, started, said, ready_at):
    seen = worker(placed_at=placed, started_at=started)
    phases = wake_phases(seen, tuple(said), ready_at)
    assert phases == wake_phases(seen, tuple(said), ready_at), "same input, same output"
    for before, after in itertools.pairwise(phases):
        assert before.ended == after.began
        assert before.began <= after.began
    assert all(seconds >= 0 for seconds in phase_times(phases, 1300).values())
    if ready_at:
        end = phases[-1].ended
        assert sum(phase_times(phases, 1300).values()) == pytest.approx(end - 1000, abs=0.1)


@given(st.lists(st.tuples(st.integers(0, 20), st.floats(1000, 5000)), max_size=80))
def test_what_is_learned_is_bounded_and_survives_a_restart(wakes):
    memory = Memory()
    for number, ready_at in wakes:
        phases = wake_phases(PLACED, SAID, ready_at)
        learned = learn_wake(memory.wakes, f"class-{number}", phases, ready_at)
        memory = replace(memory, wakes=learned)
    assert len(memory.wakes) <= CLASSES_KEPT
    assert all(len(kept) <= WAKES_KEPT for kept in memory.wakes.values())
    assert Memory.load(memory.dump()) == memory
    if wakes:
        assert f"class-{wakes[-1][0]}" in memory.wakes


def test_what_is_expected_is_the_median_of_the_last_wakes_of_the_class():
    wakes = {"a100": ((100.0, 0.0, 0.0, 5.0, 1.0), (0.0, 0.0, 0.0, 5.0, 1.0))}
    memory = Memory(wakes=wakes | {"l4": ((1.0, 0, 0, 5.0, 1.0),)}, cold_start_seconds=33.0)
    assert typical_wake(memory.wakes["a100"]) == dict(
        zip((*PHASES, "total"), (50, 0, 0, 5, 1, 56), strict=True)
    )
    assert expected_cold_start(memory, "a100") == 56
    assert expected_cold_start(memory, "l4") == 7
    assert expected_cold_start(memory, "h100") == 33, "an older version learned no phases"
    assert expected_cold_start(Memory()) == 0


@pytest.mark.parametrize(
    ("before", "wanted", "how", "since"),
    [
        pytest.param(0, 1, {}, 1000, id="it begins"),
        pytest.param(900, 1, {}, 900, id="it goes on, whichever worker it is"),
        pytest.param(900, 1, {"is_ready": True}, 0, id="a worker is ready"),
        pytest.param(900, 0, {}, 0, id="none is wanted"),
        pytest.param(900, 1, {"is_ready": True, "is_complete": False}, 900, id="a gateway is new"),
        pytest.param(2000, 1, {}, 1000, id="the clock stepped back"),
    ],
)
def test_a_wake_lasts_from_the_first_worker_wanted_to_the_first_one_ready(
    before, wanted, how, since
):
    how = {"is_ready": False, "is_complete": True} | how
    assert waking_since(before, wanted, 1000, **how) == since


def waking(**spec) -> SimulatedFleet:
    """Its worker is created, and loads for ever."""
    fleet = SimulatedFleet(deployment(**spec), waiting=1)
    fleet.reconcile()
    ((name, one),) = fleet.workers.items()
    fleet.workers[name] = replace(one, placed_at=1000.0, started_at=1000.0, node="node-a")
    phases = (("Download", 1001.0),)
    fleet.says[name] = stats(WorkerState.LOADING, phase="Download", percent=3, phases=phases)
    fleet.frozen.add(one.id)
    return fleet


def wake_up(fleet: SimulatedFleet) -> None:
    for one in fleet.workers.values():
        said = (("Download", 1001.0), ("Weights", 1041.0), ("Warmup", 1046.0))
        fleet.says[one.name] = stats(phases=said, ready_at=1047.0)
        fleet.frozen.discard(one.id)


def test_a_wake_beyond_its_deadline_is_refused_by_the_phase_that_it_is_in():
    fleet = waking(cold_start_deadline=60.0)
    fleet.run(59)
    assert fleet.condition("Stalled") == ("False", "Progressing")
    assert fleet.plan.view.cause == ""
    fleet.run(2)
    assert fleet.condition("Stalled") == ("True", "ColdStartTimeout")
    assert fleet.condition("Ready") == ("False", "ColdStartTimeout")
    message = fleet.status.condition("Ready").message
    assert "tiny-aaaa-0 has been in phase weights since 1970-01-01T00:16:41Z" in message
    assert fleet.plan.view.cause.startswith("ColdStartTimeout: no worker is ready 60 s after")
    assert fleet.alive(), "it goes on all the same"
    wake_up(fleet)
    fleet.run(1)
    assert fleet.condition("Ready") == ("True", "Serving")
    assert fleet.condition("Stalled") == ("False", "Progressing")
    assert fleet.memory.waking_since == 0


def test_the_plan_looks_again_when_the_deadline_is_over():
    fleet = waking(cold_start_deadline=60.0)
    assert fleet.reconcile().wake_at == 1060


def test_a_deadline_names_why_there_is_no_node():
    fleet = waking(cold_start_deadline=60.0)
    ((name, one),) = fleet.workers.items()
    problem = StartupProblem(reason=Reason.UNSCHEDULABLE, message="0/3 nodes fit", since=1000.0)
    fleet.workers[name] = replace(one, placed_at=None, started_at=None, address="", problem=problem)
    del fleet.says[name]
    fleet.says[name] = stats(WorkerState.LOADING)
    fleet.run(61)
    message = fleet.status.condition("Stalled").message
    assert (
        "tiny-aaaa-0 has been in phase node since 1970-01-01T00:16:40Z (tiny-aaaa-0: 0/3 nodes fit)"
        in message
    )
    fleet.run(300)
    assert fleet.condition("Stalled")[1] == "Unschedulable", "what lasts has a reason of its own"
    assert fleet.plan.view.cause.startswith("Unschedulable: ")


def test_one_more_worker_may_take_longer_than_a_wake():
    fleet = SimulatedFleet(
        deployment(cold_start_deadline=5.0, scaling=policy(min_replicas=2)), now=1000
    )
    fleet.run(LOADING_TIME + 1)
    name = fleet.alive()[1]
    fleet.frozen.add(fleet.workers[name].id)
    fleet.says[name] = stats(WorkerState.LOADING, phase="Weights")
    fleet.run(20)
    assert fleet.condition("Ready") == ("True", "Serving")
    assert fleet.memory.waking_since == 0


def test_an_operator_that_is_replaced_in_the_middle_of_a_wake_keeps_its_times():
    """The successor has what the status kept, and what pods and workers say."""
    fleet, restarted = (waking(cold_start_deadline=600.0) for _ in range(2))
    for one in (fleet, restarted):
        one.run(20)
    restarted.memory = Memory.load(restarted.memory.dump())
    restarted.status = parse(render(restarted.status))
    for one in (fleet, restarted):
        one.run(20)
    assert restarted.status.cold_start == fleet.status.cold_start
    assert restarted.memory.waking_since == 1000
    for one in (fleet, restarted):
        wake_up(one)
        one.run(5)
    assert restarted.memory.wakes == fleet.memory.wakes == {"": ((0, 0, 40, 6, 1),)}
    assert restarted.memory.cold_start_seconds == 47


def test_the_status_and_gateways_hear_of_each_phase():
    fleet = waking()
    fleet.run(10)
    view = fleet.plan.view
    assert [(wake.phase, wake.ended) for wake in view.wake][-1] == ("weights", 0)
    cold = render(fleet.status)["coldStart"]
    assert cold["step"] == {"name": "weights", "since": "1970-01-01T00:16:41Z"}
    assert cold["seconds"] == {"node": "0s", "image": "0s", "load": "1s"}
    assert (cold["since"], cold["deadline"]) == ("1970-01-01T00:16:40Z", "1970-01-01T00:46:40Z")
    wake_up(fleet)
    fleet.run(40)
    assert fleet.plan.view.wake == ()
    (learned,) = render(fleet.status)["coldStarts"]
    assert learned == {
        "accelerator": "",
        "wakes": 1,
        "seconds": {
            "node": "0s", "image": "0s", "weights": "40s", "load": "6s", "firstToken": "1s",
            "total": "47s",
        },
    }  # fmt: skip
    assert parse(render(fleet.status)).cold_starts == fleet.status.cold_starts


def test_a_node_that_has_to_come_is_expected_when_it_came_the_last_time():
    fleet = waking(accelerators=())
    ((name, one),) = fleet.workers.items()
    problem = StartupProblem(reason=Reason.UNSCHEDULABLE, message="no node", since=1000.0)
    fleet.workers[name] = replace(one, placed_at=None, started_at=None, address="", problem=problem)
    fleet.says[name] = stats(WorkerState.LOADING)
    fleet.memory = replace(fleet.memory, wakes={"": ((30.0, 10.0, 40.0, 8.0, 2.0),)})
    fleet.run(10)
    assert (fleet.status.cold_start.phase, fleet.status.cold_start.eta) == ("Pending", 1090)


def test_nodes_that_keep_the_files_are_told_until_the_revision_changes():
    fleet = waking(keeps_weights=True)
    wake_up(fleet)
    fleet.run(5)
    assert fleet.status.weights_on == ("node-a",)
    assert parse(render(fleet.status)).weights_on == ("node-a",)
    fleet.change(revision="bbbb")
    fleet.run(1)
    assert fleet.status.weights_on == ()


def test_the_view_says_in_which_order_requests_are_served():
    fleet = waking(overload_target=1.2)
    view: ModelView = fleet.reconcile().view
    assert view.overload_target == 1.2

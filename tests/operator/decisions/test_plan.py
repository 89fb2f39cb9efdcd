from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfleet_operator.decisions.actions import Create, Forget, Record, Remove, Stop, Unroute
from modelfleet_operator.decisions.memory import Memory
from modelfleet_operator.decisions.observed import Observed, PastRevision, Signals, WorkerState
from modelfleet_operator.decisions.plan import make_plan
from simulated_fleet import SimulatedFleet, deployment, policy, report, stats, worker

PROVEN = Memory(revision="aaaa", last_ready_revision="aaaa", target=1, last_active=1000)


def plan_for(*workers, signals: Signals | None = None, memory: Memory = PROVEN, **spec):
    history = (PastRevision(revision="aaaa", number=1),)
    seen = Observed(deployment=deployment(**spec), workers=workers, history=history)
    return make_plan(seen, signals or Signals(gateways=(report(),)), 1000, memory, None)


def ready(*workers, running: dict[str, int] | None = None, **load) -> Signals:
    ids = [w.id for w in workers]
    return Signals(
        gateways=(report(reachable=ids, **load),),
        stats={w.id: stats(running=(running or {}).get(w.id, 0)) for w in workers},
    )


# One reconcile ----------------------------------------------------------------------------------


def test_names_say_deployment_revision_and_the_lowest_free_ordinal():
    there = [worker(0), worker(2, stopping=True), worker(3, failure="ended by SIGKILL")]
    plan = plan_for(*there, signals=ready(there[0], waiting=40), scaling=policy(max_replicas=3))
    names = [action.name for action in plan.actions if isinstance(action, Create)]
    assert names == ["tiny-aaaa-1", "tiny-aaaa-4"], "stopping and exited ones keep their ordinals"


def test_an_exited_worker_is_removed_and_replaced_in_one_reconcile():
    plan = plan_for(worker(0, failure="ended by SIGKILL"))
    assert [type(action) for action in plan.actions] == [Remove, Create]
    assert "SIGKILL" in plan.actions[0].reason


def test_scaling_down_takes_the_least_busy_and_stops_routing_to_it_first():
    there = [worker(n) for n in range(3)]
    busy = {there[0].id: 5, there[1].id: 1, there[2].id: 9}
    plan = plan_for(
        *there,
        signals=ready(*there, running=busy),
        memory=replace(PROVEN, target=3),
        scaling=policy(mode="External", replicas=2),
    )
    assert [(type(a), a.worker.name) for a in plan.actions] == [(Unroute, "tiny-aaaa-1")]
    routable = {worker.id: worker.routable for worker in plan.view.workers}
    assert routable == {there[0].id: True, there[1].id: False, there[2].id: True}


def test_scaling_down_prefers_one_that_is_not_ready_and_stops_it_at_once():
    there = [worker(0), worker(1)]
    plan = plan_for(*there, signals=ready(there[0]), scaling=policy(mode="External", replicas=1))
    assert [(type(a), a.worker.name) for a in plan.actions] == [(Stop, "tiny-aaaa-1")]
    assert plan.actions[0].is_idle, "it may be too young to hear that it should end"


def draining_signals(*, reached: bool = False, taken: int = 0, running: int = 0) -> Signals:
    """What gateways say of worker 0, which drains, and of worker 1, which serves."""
    ids = [worker(1).id, *([worker(0).id] if reached else [])]
    return Signals(
        gateways=(report(reachable=ids, hears=frozenset(ids), taken={worker(0).id: taken}),),
        stats={worker(0).id: stats(running=running), worker(1).id: stats()},
    )


@pytest.mark.parametrize(
    ("signals", "since", "stops"),
    [
        pytest.param(draining_signals(reached=True), 990, False, id="a gateway may send to it"),
        pytest.param(draining_signals(), 990, True, id="nothing runs on it"),
        pytest.param(draining_signals(), 999.5, False, id="its Stats may be older"),
        pytest.param(draining_signals(taken=1), 990, False, id="a gateway has a request there"),
        pytest.param(draining_signals(running=1), 990, False, id="it says that it has a request"),
        pytest.param(draining_signals(running=1), 939, True, id="the drain timeout is over"),
        pytest.param(Signals(), 990, False, id="no gateway says anything"),
        pytest.param(
            Signals(), 939, True, id="no gateway said anything for as long as a drain takes"
        ),
    ],
)
def test_a_worker_that_drains_is_stopped_when_nothing_runs_on_it(signals, since, stops):
    there = [worker(0, draining_since=since), worker(1)]
    plan = plan_for(*there, signals=signals, drain_timeout=60)
    assert any(isinstance(action, Stop) for action in plan.actions) is stops
    assert stops or plan.wake_at is not None


def test_the_last_worker_drains_for_as_long_as_its_requests_take():
    draining = worker(0, draining_since=100)
    signals = Signals(gateways=(report(),), stats={draining.id: stats(running=1)})
    stopped = plan_for(
        draining, signals=signals, scaling=policy(mode="External", replicas=0), drain_timeout=60
    )
    assert not any(isinstance(action, Stop) for action in stopped.actions)


def test_a_hung_worker_does_not_drain_for_ever():
    fleet = SimulatedFleet(deployment(scaling=policy(min_replicas=1)))
    fleet.run(10)
    fleet.streams["tiny-aaaa-0"] = 1
    fleet.change(revision="bbbb")
    fleet.run(20)
    assert "tiny-aaaa-0" in fleet.workers
    fleet.frozen = {"default/tiny-aaaa-0"}
    fleet.run(35)
    assert "tiny-aaaa-0" not in fleet.workers


def test_demand_takes_a_draining_worker_back_before_it_starts_another():
    fleet = SimulatedFleet(deployment(scaling=policy(scale_down_delay=2)))
    fleet.waiting = 16
    fleet.run(10)
    fleet.streams = dict.fromkeys(fleet.alive(), 1)
    fleet.waiting = 0
    fleet.run(6)
    assert len(fleet.routable()) == 1
    created = len(fleet.created())
    fleet.waiting = 14
    fleet.reconcile()
    assert len(fleet.routable()) == 2
    assert len(fleet.created()) == created


def test_what_the_user_must_correct_starts_nothing():
    plan = plan_for(error="spec.model.tokenSecretRef: no such Secret", memory=Memory())
    assert plan.actions == ()
    stalled = plan.status.condition("Stalled")
    assert (stalled.status, stalled.reason) == ("True", "InvalidSpec")
    assert "tokenSecretRef" in stalled.message


def test_the_view_carries_limits_names_and_every_worker_with_an_address():
    there = [worker(0), worker(1, address=""), worker(2, stopping=True)]
    plan = plan_for(*there, signals=ready(there[0]), max_queue=7, hold_timeout=9.5)
    assert (plan.view.model, plan.view.max_queue, plan.view.hold_timeout) == (
        "default/tiny", 7, 9.5,
    )  # fmt: skip
    assert [(w.id, w.routable) for w in plan.view.workers] == [
        ("default/tiny-aaaa-0", True),
        ("default/tiny-aaaa-2", False),
    ]


def test_the_view_has_the_workers_in_the_order_in_which_a_smaller_fleet_keeps_them():
    there = [worker(0, created=90.0), worker(1, created=80.0), worker(2, created=80.0)]
    idle = ready(*there)
    told = [w.id for w in plan_for(*there, signals=idle).view.workers]
    fewer = plan_for(
        *there,
        signals=idle,
        memory=replace(PROVEN, target=3),
        scaling=policy(mode="External", replicas=2),
    )
    assert told == [there[1].id, there[2].id, there[0].id]
    assert [action.worker.id for action in fewer.actions] == [told[-1]]


@pytest.mark.parametrize(
    ("scaling", "packed"),
    [
        ({"max_replicas": 8}, 1),
        ({"min_replicas": 4, "max_replicas": 4}, 0),
        ({"mode": "External", "min_replicas": 4}, 1),
    ],
)
def test_the_view_says_how_requests_are_routed(scaling, packed):
    learned = replace(PROVEN, scaling=replace(PROVEN.scaling, told=33))
    assert plan_for(worker(0), memory=learned).view.pack_in_flight == 8
    view = plan_for(worker(0), scaling=policy(**scaling)).view
    assert (view.routing_policy, view.pack_in_flight) == ("PrefixAware", packed)
    other = plan_for(worker(0), routing_policy="LeastOutstanding").view
    assert other.routing_policy == "LeastOutstanding"


# Stories in time --------------------------------------------------------------------------------


def test_a_new_model_proves_itself_sleeps_and_wakes():
    fleet = SimulatedFleet(deployment())
    fleet.reconcile()
    assert fleet.alive() == ["tiny-aaaa-0"], "one worker proves the revision, at minReplicas 0 too"
    assert fleet.condition("Ready") == ("False", "Starting")

    fleet.run(4)
    assert fleet.condition("Ready") == ("True", "Serving")
    fleet.run(50)
    assert fleet.alive()
    fleet.run(15)
    assert not fleet.workers
    assert fleet.condition("Ready") == ("True", "Asleep")
    assert fleet.status.scaling_history[-1].reason == "idle for 60 s"

    fleet.waiting = 1
    fleet.reconcile()
    assert fleet.alive() == ["tiny-aaaa-0"]
    assert fleet.condition("Ready") == ("False", "Waking")
    assert "1 waiting" in fleet.status.scaling_history[-1].reason


def test_a_revision_that_was_never_ready_is_never_called_asleep():
    fleet = SimulatedFleet(deployment(), broken={"aaaa"})
    for _ in range(300):
        fleet.run(1)
        assert fleet.condition("Ready")[0] == "False"


def test_an_edit_back_to_the_old_revision_ends_the_new_one():
    fleet = SimulatedFleet(deployment(), broken={"bbbb"})
    fleet.run(10)
    fleet.change(revision="bbbb")
    fleet.run(10)
    fleet.change(revision="aaaa")
    fleet.run(10)
    assert fleet.alive() == ["tiny-aaaa-0"]
    assert fleet.condition("Stalled")[0] == "False"


def test_an_edit_of_the_scaling_alone_starts_no_new_worker():
    fleet = SimulatedFleet(deployment())
    fleet.run(10)
    fleet.change(scaling=policy(max_replicas=2))
    fleet.run(2)
    assert [name for _, name in fleet.created()] == ["tiny-aaaa-0"]
    assert fleet.status.observed_generation == 2


def test_crash_loops_are_retried_ever_more_slowly_and_say_why():
    fleet = SimulatedFleet(deployment(), broken={"aaaa"})
    fleet.run(400)
    times = [time for time, _ in fleet.created()]
    waits = [round(b - a) for a, b in itertools.pairwise(times)]
    assert waits[:6] == [1, 2, 3, 5, 9, 17], (
        "a second until it exits each time, and 0, 1, 2, 4, 8, 16 s"
    )
    assert max(waits) <= 62
    assert fleet.condition("Stalled") == ("True", "CrashLoop")
    assert fleet.status.cold_start is not None

    fleet.broken.clear()
    fleet.run(200)
    assert fleet.condition("Stalled")[0] == "False", "it healed by itself"


def test_a_killed_worker_is_replaced_at_once_and_failures_are_forgotten():
    fleet = SimulatedFleet(deployment(scaling=policy(min_replicas=1)))
    fleet.run(10)
    for _ in range(4):
        fleet.kill(fleet.alive()[0])
        fleet.reconcile()
        assert len(fleet.alive()) == 1
        fleet.run(200)
    assert fleet.memory.failures.count == 0


def test_a_worker_that_no_gateway_reaches_is_replaced_after_a_while():
    fleet = SimulatedFleet(deployment(scaling=policy(min_replicas=2, max_replicas=2)))
    fleet.run(10)
    fleet.frozen = {"default/tiny-aaaa-0"}
    fleet.run(20)
    assert "tiny-aaaa-0" in fleet.alive(), "it may come back"
    assert fleet.condition("Ready") == ("True", "Serving"), "the other one serves"
    fleet.run(12)
    assert "tiny-aaaa-0" not in fleet.alive()
    assert len(fleet.alive()) == 2


def test_without_gateways_nothing_is_changed_and_nothing_is_claimed():
    fleet = SimulatedFleet(deployment())
    fleet.waiting = 20
    fleet.run(10)
    count = len(fleet.alive())
    fleet.gateways, fleet.waiting = (), 0
    fleet.run(500)
    assert len(fleet.alive()) == count == 3
    assert fleet.condition("Ready") == ("Unknown", "NoGateway")
    assert fleet.status.queue is None


def test_a_worker_that_exits_in_silence_is_replaced():
    fleet = SimulatedFleet(deployment())
    fleet.run(10)
    fleet.gateways = ()
    fleet.kill("tiny-aaaa-0")
    fleet.reconcile()
    assert len(fleet.alive()) == 1


def test_a_failed_load_is_tried_again_by_another_worker():
    failed = worker(0)
    signals = Signals(
        gateways=(report(),),
        stats={failed.id: stats(WorkerState.FAILED, message="config.json is missing")},
    )
    plan = plan_for(failed, signals=signals, memory=Memory())
    assert [type(action) for action in plan.actions] == [Stop, Create]
    assert plan.memory.failures.error == "config.json is missing"


def test_the_memory_survives_a_change_of_leaders():
    fleet = SimulatedFleet(deployment())
    fleet.waiting = 20
    fleet.run(10)
    fleet.waiting = 0
    fleet.memory = Memory.load(fleet.memory.dump())
    fleet.reconcile()
    assert len(fleet.alive()) == 3, "the peak is still remembered"
    fleet.run(100)
    assert fleet.condition("Ready") == ("True", "Asleep")


def test_a_leader_without_memory_keeps_what_runs():
    fleet = SimulatedFleet(deployment(scaling=policy(max_replicas=4)))
    fleet.waiting = 30
    fleet.run(10)
    fleet.memory, fleet.status, fleet.gateways = Memory(), None, ()
    fleet.run(30)
    assert len(fleet.alive()) == 4


# Properties -------------------------------------------------------------------------------------

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("load"), st.integers(0, 60)),
        st.tuples(st.just("run"), st.floats(0.1, 120)),
        st.tuples(st.just("kill"), st.integers(0, 9)),
        st.tuples(st.just("revise"), st.sampled_from(["aaaa", "bbbb", "cccc"])),
        st.tuples(st.just("break"), st.sampled_from(["bbbb", "cccc", ""])),
        st.tuples(st.just("gateways"), st.integers(0, 3)),
        st.tuples(st.just("bounds"), st.tuples(st.integers(0, 3), st.integers(1, 6))),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(events=EVENTS)
def test_whatever_happens_the_plan_keeps_its_promises(events):
    fleet = SimulatedFleet(deployment())
    fleet.run(5, step=1)
    for kind, value in events:
        match kind, value:
            case "load", count:
                fleet.waiting = count
            case "kill", place if fleet.alive():
                fleet.kill(fleet.alive()[place % len(fleet.alive())])
            case "revise", revision:
                fleet.change(revision=revision)
            case "break", revision:
                fleet.broken = {revision}
            case "gateways", count:
                fleet.gateways = tuple(f"gw{n}" for n in range(count))
            case "bounds", (low, more):
                fleet.change(scaling=policy(min_replicas=low, max_replicas=max(low, more)))
        for _ in range(3 if kind != "run" else 1):
            before = fleet.routable()
            check_reconcile(fleet, before)
        if kind == "run":
            fleet.run(value, step=2)
            check_reconcile(fleet, fleet.routable())


def check_reconcile(fleet: SimulatedFleet, routable: list[str]) -> None:
    plan = fleet.reconcile()  # it fails by itself when a name is taken
    scaling, actions = fleet.deployment.scaling, plan.actions
    touched = [a.worker.uid for a in actions if not isinstance(a, Create | Record | Forget)]
    assert len(touched) == len(set(touched)), "one thing at a time to one worker"
    assert all(a.reason for a in actions)
    assert len(fleet.wanted()) <= max(scaling.max_replicas, len(routable)) + 1
    taken = [a.worker.name for a in actions if isinstance(a, Unroute | Stop)]
    if routable and plan.memory.target and not plan.memory.only_proves:
        assert set(routable) - set(taken), "never takes the last one that serves"
    assert plan.wake_at is None or plan.wake_at > fleet.now
    again = make_plan(fleet.observe(), fleet.signals(), fleet.now, plan.memory, plan.status)
    assert not [a for a in again.actions if isinstance(a, Create)], "settled after one reconcile"

"""How a change rolls: counts as a table, stories in simulated time, whatever may happen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfleet_operator.decisions.actions import Create, Unroute
from modelfleet_operator.decisions.memory import Memory
from modelfleet_operator.decisions.rollout import RevisionCounts, RolloutPolicy, decide_rollout
from simulated_fleet import SimulatedFleet, deployment, policy

ONE_BY_ONE = RolloutPolicy(max_surge=0, max_unavailable=1)


def counts(**changes) -> RevisionCounts:
    """Three wanted, three old ones serve, the new revision was never ready."""
    defaults = {
        "target": 3, "new": 0, "new_ready": 0, "old": 3, "old_ready": 3,
        "proven": False, "can_start_previous": True,
    }  # fmt: skip
    counts = defaults | changes
    counts.setdefault("demand", counts["target"])
    counts.setdefault("existing", counts["new"] + counts["old"] + counts.get("old_not_serving", 0))
    return RevisionCounts(**counts)


@pytest.mark.parametrize(
    ("rollout", "there", "new", "old"),
    [
        pytest.param({}, {}, 1, 3, id="one new worker proves the revision beside the old ones"),
        pytest.param({"max_surge": 3}, {}, 1, 3, id="however many would fit"),
        pytest.param({"max_unavailable": 2}, {}, 1, 3, id="no worker is replaced before that"),
        pytest.param({}, {"new": 1, "new_ready": 1, "proven": True}, 1, 2, id="then one by one"),
        pytest.param(
            {}, {"new": 1, "new_ready": 1, "proven": True, "old": 2, "old_ready": 2,
                 "old_not_serving": 1}, 1, 2, id="a draining worker still has its accelerator",
        ),
        pytest.param(
            {}, {"new": 1, "new_ready": 1, "proven": True, "old": 2, "old_ready": 2}, 2, 2,
            id="once it is gone, the next one starts",
        ),
        pytest.param(
            {"max_surge": "50%"}, {"new": 1, "new_ready": 1, "proven": True}, 2, 2,
            id="half of three rounds up for the surge",
        ),
        pytest.param(
            {"max_unavailable": "50%"}, {"new": 1, "new_ready": 1, "proven": True}, 1, 1,
            id="and down for what may be missing",
        ),
        pytest.param(
            {"max_surge": 0, "max_unavailable": "10%"}, {}, 0, 2,
            id="percent that come to nothing still let one be missing",
        ),
        pytest.param(
            {"max_surge": 0, "max_unavailable": 1}, {}, 0, 2, id="without surge an old one goes"
        ),
        pytest.param(
            {"max_surge": 0, "max_unavailable": 1},
            {"old": 2, "old_ready": 2, "old_not_serving": 1}, 0, 2,
            id="the new one waits until it is gone",
        ),
        pytest.param(
            {"max_surge": 0, "max_unavailable": 1}, {"old": 2, "old_ready": 2}, 1, 2,
            id="and has its place then",
        ),
        pytest.param(
            {"max_surge": 0, "max_unavailable": 1},
            {"old": 2, "old_ready": 2, "new": 1, "given_up": True}, 0, 2,
            id="a revision that fails gives the place back",
        ),
        pytest.param(
            {"max_surge": 0, "max_unavailable": 1},
            {"old": 2, "old_ready": 2, "given_up": True}, 0, 3,
            id="to one of the old revision",
        ),
        pytest.param(
            {}, {"old": 2, "old_ready": 2, "new": 1}, 1, 3, id="an old one that exited is replaced"
        ),
        pytest.param(
            {}, {"old": 2, "old_ready": 2, "new": 1, "can_start_previous": False}, 1, 2,
            id="by a new one if old ones cannot be started",
        ),
        pytest.param(
            {}, {"target": 1, "demand": 0, "old": 0, "old_ready": 0}, 1, 0,
            id="a sleeping fleet starts one to prove the revision",
        ),
        pytest.param(
            {}, {"target": 1, "demand": 1, "old": 0, "old_ready": 0, "new": 1}, 1, 1,
            id="and wakes the old one for requests meanwhile",
        ),
        pytest.param(
            {}, {"target": 0, "old": 2, "old_ready": 2, "new": 1}, 0, 0, id="none if none is wanted"
        ),
        pytest.param(
            {}, {"target": 2, "new": 1, "new_ready": 1, "proven": True}, 1, 1,
            id="scaling down takes old ones",
        ),
        pytest.param(
            {}, {"target": 6, "new": 1, "new_ready": 1, "proven": True}, 4, 3,
            id="scaling up brings new ones",
        ),
        pytest.param({}, {"target": 5}, 1, 5, id="or old ones while the new one is not proven"),
        pytest.param(
            {}, {"old": 0, "old_ready": 0, "new": 1, "new_ready": 1, "proven": True, "existing": 9},
            3, 0, id="without a rollout nothing waits for what ends",
        ),
        pytest.param({}, {"blocked": True}, 0, 3, id="none of a revision that cannot be started"),
    ],
)  # fmt: skip
def test_how_many_of_each_revision(rollout, there, new, old):
    decision = decide_rollout(RolloutPolicy(**rollout), counts(**there))
    assert (decision.new, decision.old) == (new, old)


def test_what_waits_says_for_what():
    full = counts(old=2, old_ready=2, new=1, new_ready=1, proven=True, old_not_serving=1)
    assert "2 of the new revision wait" in decide_rollout(RolloutPolicy(), full).waits


# Stories in time --------------------------------------------------------------------------------


def serving(replicas: int = 3, **changes) -> SimulatedFleet:
    """A fleet that serves with revision aaaa."""
    fleet = SimulatedFleet(
        deployment(scaling=policy(min_replicas=replicas, max_replicas=max(replicas, 4)), **changes)
    )
    fleet.run(10)
    assert len(fleet.routable()) == replicas
    return fleet


def watch(fleet: SimulatedFleet, seconds: float, *, most: int, least: int) -> None:
    """Runs it and checks every step."""
    for _ in range(round(seconds * 2)):
        fleet.run(0.5)
        assert len(fleet.existing()) <= most
        assert len(fleet.routable()) >= least
        assert fleet.cut == 0


def test_a_change_rolls_within_its_surge_without_a_moment_unserved():
    fleet = serving()
    fleet.change(revision="bbbb")
    watch(fleet, 60, most=4, least=3)
    assert len(fleet.routable()) == len(fleet.alive("bbbb")) == 3
    assert fleet.condition("Reconciling") == ("False", "AsDesired")


def test_without_a_spare_accelerator_one_at_a_time():
    fleet = serving(rollout=ONE_BY_ONE)
    fleet.change(revision="bbbb")
    watch(fleet, 60, most=3, least=2)
    assert len(fleet.routable()) == len(fleet.alive("bbbb")) == 3


def test_an_old_worker_drains_for_as_long_as_its_streams_take():
    fleet = serving(replicas=1, drain_timeout=5)
    fleet.streams["tiny-aaaa-0"] = 2
    fleet.change(revision="bbbb")
    watch(fleet, 600, most=2, least=1)
    assert fleet.routable() == ["tiny-bbbb-0"]
    assert "tiny-aaaa-0" in fleet.alive(), "it has streams for ten minutes"
    fleet.streams.clear()
    fleet.run(3)
    assert list(fleet.workers) == ["tiny-bbbb-0"]


def test_what_waits_for_a_drain_is_said():
    fleet = serving()
    fleet.change(revision="bbbb")
    fleet.streams = dict.fromkeys(fleet.alive("aaaa"), 1)
    fleet.run(30)
    condition = fleet.status.condition("Reconciling")
    assert (condition.status, condition.reason) == ("True", "Rollout")
    assert condition.message == (
        "1 of 3 replicas of the new revision ready, 2 of an old one serve, 1 drain or stop; "
        "2 of the new revision wait for room (spec.rollout.maxSurge)"
    )


def test_a_stream_of_a_killed_old_worker_goes_to_one_that_drains():
    fleet = serving(replicas=2, rollout=RolloutPolicy(max_surge=2))
    fleet.streams = dict.fromkeys(fleet.alive("aaaa"), 1)
    fleet.change(revision="bbbb")
    fleet.run(10)
    assert not fleet.awaited
    assert {w.draining_since is None for w in fleet.workers.values() if w.revision == "aaaa"} == {
        False
    }
    fleet.kill("tiny-aaaa-0")
    fleet.run(2)
    assert fleet.streams == {"tiny-aaaa-1": 2}
    assert not [name for _, name in fleet.created() if name == "tiny-aaaa-2"]
    fleet.run(5)
    assert "tiny-aaaa-1" not in fleet.routable(), "it drains again"


@pytest.mark.parametrize("rollout", [RolloutPolicy(), ONE_BY_ONE], ids=["surge", "one by one"])
def test_a_stream_of_the_last_old_worker_gets_another_of_its_revision(rollout):
    fleet = serving(replicas=1, rollout=rollout)
    fleet.streams["tiny-aaaa-0"] = 1
    fleet.change(revision="bbbb")
    fleet.run(10)
    fleet.kill("tiny-aaaa-0")
    fleet.run(20)
    (resumed,) = fleet.streams
    assert fleet.workers[resumed].revision == "aaaa"
    assert fleet.workers[resumed].created > 1010
    fleet.streams.clear()
    fleet.run(20)
    assert list(fleet.workers) == ["tiny-bbbb-0"]
    assert fleet.cut == 0


def test_a_worker_that_only_loads_makes_room_for_one_that_a_stream_waits_for():
    fleet = serving(replicas=1, rollout=ONE_BY_ONE)
    fleet.change(revision="bbbb")
    fleet.run(4)
    assert fleet.alive() == ["tiny-bbbb-0"]
    fleet.awaited = {"aaaa": 1}  # a gateway was away until now
    watch(fleet, 20, most=1, least=0)
    assert fleet.streams == {"tiny-aaaa-0": 1}
    fleet.streams.clear()
    fleet.run(20)
    assert fleet.routable() == ["tiny-bbbb-0"]


def test_a_revision_that_never_gets_ready_leaves_the_old_one_serving_and_says_so():
    fleet = serving(replicas=2)
    fleet.broken = {"bbbb"}
    fleet.change(revision="bbbb")
    for _ in range(300):
        fleet.run(1)
        assert fleet.routable() == ["tiny-aaaa-0", "tiny-aaaa-1"]
        assert fleet.condition("Ready") == ("True", "ServingOldRevision")
    assert fleet.status.condition("Ready").generation == fleet.deployment.generation
    assert fleet.condition("Stalled")[0] == "True"
    assert fleet.condition("Reconciling")[0] == "False", "kstatus reads the two as exclusive"
    assert "no safetensors" in fleet.status.condition("Stalled").message
    assert "aaaa" in fleet.status.condition("Ready").message

    fleet.kill("tiny-aaaa-0")
    fleet.run(10)
    assert len(fleet.routable()) == 2, "replaced by one of the old revision"

    fleet.broken.clear()
    fleet.run(200)
    assert len(fleet.alive("bbbb")) == 2, "it healed by itself"
    assert fleet.condition("Stalled")[0] == "False"


def test_without_surge_a_revision_that_fails_gives_its_place_back():
    fleet = serving(replicas=1, rollout=ONE_BY_ONE)
    fleet.broken = {"bbbb"}
    fleet.change(revision="bbbb")
    fleet.run(60)
    assert fleet.routable()
    assert not fleet.alive("bbbb")
    created = len(fleet.created())
    fleet.run(3600, step=5)
    assert len(fleet.created()) == created, "no flapping"
    assert fleet.condition("Ready") == ("True", "ServingOldRevision")
    assert fleet.condition("Stalled")[0] == "True"
    assert "another change" in fleet.status.condition("Stalled").message
    fleet.change(revision="cccc")
    fleet.run(30)
    assert fleet.routable() == ["tiny-cccc-0"]


def test_a_revision_that_was_given_up_and_is_ready_after_all_is_not_stalled_any_more():
    fleet = SimulatedFleet(deployment(rollout=ONE_BY_ONE))
    fleet.waiting = 1
    fleet.run(10)
    fleet.broken = {"bbbb"}
    fleet.change(revision="bbbb")
    fleet.run(60)
    assert fleet.condition("Stalled") == ("True", "RolloutStuck")
    fleet.broken.clear()
    fleet.waiting = 0  # it sleeps, so there is a place to try the new revision again
    fleet.run(200)
    assert fleet.condition("Ready") == ("True", "Asleep")
    assert fleet.condition("Stalled")[0] == "False"


def test_an_old_revision_that_fails_too_is_retried_ever_more_slowly():
    fleet = serving(replicas=1)
    fleet.broken = {"aaaa", "bbbb"}
    fleet.change(revision="bbbb")
    fleet.run(300)
    old = [time for time, name in fleet.created() if "aaaa" in name]
    assert 4 < len(old) < 15


def test_a_sleeping_fleet_proves_a_change_and_sleeps_again():
    fleet = SimulatedFleet(deployment())
    fleet.run(100)
    assert fleet.condition("Ready") == ("True", "Asleep")
    fleet.change(revision="bbbb")
    fleet.reconcile()
    assert fleet.alive() == ["tiny-bbbb-0"]
    fleet.run(10)
    assert fleet.condition("Ready") == ("True", "Serving")
    fleet.run(70)
    assert not fleet.workers
    assert fleet.condition("Ready") == ("True", "Asleep")


def test_a_sleeping_fleet_answers_with_its_old_revision_while_the_new_one_fails():
    fleet = SimulatedFleet(deployment(), broken={"bbbb"})
    fleet.run(100)
    fleet.change(revision="bbbb")
    fleet.run(100)
    assert not fleet.alive("aaaa"), "there was no request"
    assert fleet.condition("Ready") == ("True", "Asleep")
    assert "aaaa" in fleet.status.condition("Ready").message
    assert fleet.condition("Stalled")[0] == "True"
    fleet.waiting = 1
    fleet.run(5)
    assert fleet.routable() == ["tiny-aaaa-0"]
    fleet.waiting = 0
    fleet.run(120)
    assert not fleet.alive("aaaa")


def test_a_sleeping_fleet_proves_a_change_with_one_worker_though_no_gateway_says_anything():
    fleet = SimulatedFleet(deployment())
    fleet.run(100)
    fleet.gateways = ()
    fleet.change(revision="bbbb")
    fleet.run(10)
    assert fleet.alive() == ["tiny-bbbb-0"]


def test_an_apply_of_the_old_yaml_keeps_what_still_runs():
    fleet = serving()
    fleet.change(revision="bbbb")
    fleet.streams = dict.fromkeys(fleet.alive("aaaa"), 1)
    fleet.run(12)
    assert fleet.alive("bbbb")
    fleet.change(revision="aaaa")
    fleet.run(1)
    assert len([n for n in fleet.routable() if "aaaa" in n]) == 3, "the draining one is back"
    fleet.run(20)
    assert not [name for time, name in fleet.created() if "aaaa" in name and time > 1005]
    assert len(fleet.alive("aaaa")) == 3
    assert not fleet.alive("bbbb")
    assert fleet.history == {"aaaa": 3, "bbbb": 2}, "renumbered, as apps/v1 does"


def test_a_second_change_replaces_the_one_that_never_was_ready_first():
    fleet = serving(replicas=2)
    fleet.broken = {"bbbb"}
    fleet.change(revision="bbbb")
    fleet.run(0.5)
    assert len(fleet.alive("bbbb")) == 1
    fleet.change(revision="cccc")
    watch(fleet, 40, most=3, least=2)
    assert len(fleet.routable()) == len(fleet.alive("cccc")) == 2
    drained = [a.worker.revision for _, a in fleet.actions if isinstance(a, Unroute)]
    assert set(drained) == {"aaaa"}, "what was never ready needs no drain"


def test_three_revisions_that_serve_become_one():
    fleet = serving()
    fleet.change(revision="bbbb")
    while len(fleet.alive("bbbb")) < 2:
        fleet.run(0.5)
    fleet.change(revision="cccc")
    watch(fleet, 60, most=4, least=3)
    assert len(fleet.routable()) == len(fleet.alive("cccc")) == 3


def test_load_grows_the_fleet_in_the_middle_of_a_change():
    fleet = serving(replicas=2)
    fleet.change(revision="bbbb")
    fleet.run(5)
    fleet.waiting = 32
    watch(fleet, 40, most=5, least=2)
    assert len(fleet.routable()) == len(fleet.alive("bbbb")) == 4


def test_an_external_count_changes_in_the_middle_of_a_change():
    fleet = SimulatedFleet(deployment(scaling=policy(mode="External", replicas=3)))
    fleet.run(10)
    fleet.change(revision="bbbb")
    fleet.run(5)
    fleet.change(scaling=policy(mode="External", replicas=1))
    watch(fleet, 40, most=4, least=1)
    assert fleet.alive() == fleet.alive("bbbb")
    assert len(fleet.alive()) == 1
    fleet.change(scaling=policy(mode="External", replicas=0), revision="cccc")
    fleet.run(20)
    assert not fleet.workers, "a revision that is not wanted needs no proof"


def test_a_new_leader_goes_on_with_a_change():
    fleet = serving()
    fleet.change(revision="bbbb")
    fleet.run(4.5)
    fleet.memory = Memory.load(fleet.memory.dump())
    watch(fleet, 60, most=4, least=3)
    assert len(fleet.alive("bbbb")) == 3


def test_without_a_gateway_nothing_that_served_is_stopped():
    fleet = serving()
    fleet.change(revision="bbbb")
    fleet.streams = dict.fromkeys(fleet.alive("aaaa"), 1)
    fleet.run(8)
    fleet.gateways = ()
    fleet.run(600, step=5)
    assert fleet.cut == 0
    assert len(fleet.alive("aaaa")) == 3


def test_an_operator_that_finds_no_history_replaces_old_workers_all_the_same():
    fleet = serving()
    fleet.history.clear()
    fleet.change(revision="bbbb")
    watch(fleet, 60, most=4, least=3)
    assert len(fleet.alive("bbbb")) == 3


def test_history_is_bounded_and_keeps_what_is_in_use():
    fleet = serving(replicas=1, rollout=RolloutPolicy(max_surge=2, history_limit=2))
    fleet.streams["tiny-aaaa-0"] = 1
    for number in range(2, 8):
        fleet.change(revision=f"rev{number}")
        fleet.run(15)
    assert sorted(fleet.history) == ["aaaa", "rev5", "rev6", "rev7"], "aaaa still has a worker"
    fleet.streams.clear()
    fleet.run(5)
    assert sorted(fleet.history) == ["rev5", "rev6", "rev7"]


def test_a_spec_that_may_not_start_leaves_the_old_revision_serving():
    fleet = serving(replicas=2)
    fleet.change(revision="bbbb", error="spec.model.source: not under an allowed path")
    fleet.run(20)
    assert "bbbb" not in fleet.history
    fleet.kill("tiny-aaaa-0")
    fleet.run(10)
    assert len(fleet.routable()) == len(fleet.alive("aaaa")) == 2


# Whatever happens -------------------------------------------------------------------------------

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("run"), st.floats(0.5, 20)),
        st.tuples(st.just("revise"), st.sampled_from(["aaaa", "bbbb", "cccc", "dddd"])),
        st.tuples(st.just("kill"), st.integers(0, 9)),
        st.tuples(st.just("streams"), st.integers(0, 9)),
        st.tuples(st.just("finish"), st.just(0)),
        st.tuples(st.just("break"), st.sampled_from(["bbbb", "cccc", ""])),
        st.tuples(st.just("count"), st.integers(1, 5)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=15,
)
POLICIES = st.builds(
    RolloutPolicy,
    max_surge=st.sampled_from([0, 1, 2, "25%", "100%"]),
    max_unavailable=st.sampled_from([0, 1, 2, "34%"]),
)


@settings(max_examples=60, deadline=None)
@given(events=EVENTS, rollout=POLICIES)
def test_whatever_happens_a_rollout_keeps_its_promises(events, rollout):
    fleet = SimulatedFleet(deployment(scaling=policy(mode="External", replicas=3), rollout=rollout))
    fleet.run(5)
    for kind, value in events:
        match kind, value:
            case "run", seconds:
                step_by_step(fleet, seconds)
            case "revise", revision:
                fleet.change(revision=revision)
            case "kill", place if fleet.existing():
                fleet.kill(fleet.existing()[place % len(fleet.existing())])
            case "streams", place if fleet.routable():
                fleet.streams[fleet.routable()[place % len(fleet.routable())]] = 1
            case "finish", _:
                fleet.streams.clear()
            case "break", revision:
                fleet.broken = {revision}
            case "count", replicas:
                fleet.change(scaling=policy(mode="External", replicas=replicas))
            case "restart", _:
                fleet.memory = Memory.load(fleet.memory.dump())
        step_by_step(fleet, 0.5)
    converges(fleet)


def step_by_step(fleet: SimulatedFleet, seconds: float) -> None:
    """No reconcile makes the surge or what is missing worse than the spec allows."""
    for _ in range(max(round(seconds * 2), 1)):
        fleet.run(0.5)
        target, rollout = fleet.memory.target or 0, fleet.deployment.rollout
        rolls = {w.revision for w in fleet.workers.values() if w.failure is None}
        created = [a for time, a in fleet.actions if time == fleet.now and isinstance(a, Create)]
        rescued = [a for a in created if "stream" in a.reason]
        if len(rolls) > 1 and len(created) > len(rescued):
            assert len(fleet.existing()) <= target + rollout.surge(target)
        drained = [a for time, a in fleet.actions if time == fleet.now and isinstance(a, Unroute)]
        if drained:
            assert len(fleet.routable()) >= min(target - rollout.unavailable(target), target)
        assert fleet.cut == 0 or len(rolls) <= 1


def converges(fleet: SimulatedFleet) -> None:
    """Once the causes are gone, one revision serves and nothing moves."""
    fleet.broken.clear()
    fleet.change(revision="eeee")
    fleet.run(90, step=1)
    fleet.streams.clear()
    fleet.run(90, step=1)
    target = fleet.memory.target or 0
    assert not fleet.awaited
    assert len(fleet.routable()) == len(fleet.existing()) == len(fleet.alive("eeee")) == target
    seen = len(fleet.actions)
    fleet.run(60, step=2)
    assert len(fleet.actions) == seen, "nothing moves any more"
    assert replace(fleet.status.condition("Reconciling"), changed=0).status == "False"

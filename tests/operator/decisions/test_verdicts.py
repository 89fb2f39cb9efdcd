"""What `modelfleet explain` will print: each step of a plan in words."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from modelfleet_operator.decisions.actions import Create, Forget, Record
from modelfleet_operator.decisions.memory import Memory
from modelfleet_operator.decisions.observed import Accelerator, Observed, PastRevision, Signals
from modelfleet_operator.decisions.plan import Plan, make_plan
from modelfleet_operator.decisions.reasons import Reason
from modelfleet_operator.decisions.rollout import RolloutPolicy
from modelfleet_operator.decisions.startup_problem import Refusal, StartupProblem
from simulated_fleet import SimulatedFleet, deployment, policy, report, stats, worker

STEPS = (
    "placement", "workers", "failures", "interruptions", "autoscale", "learned", "budget", "spot",
    "prove", "give up", "rollout", "rescue",
    "drain", "reroute", "stop", "claim", "start", "protect", "history", "status", "wake",
)  # fmt: skip


def words(plan: Plan | None, step: str) -> str:
    assert plan is not None
    (found,) = [verdict.words for verdict in plan.verdicts if verdict.step == step]
    return found


def check(plan: Plan) -> None:
    """Every step says something, and every action is in the words of a step."""
    assert tuple(verdict.step for verdict in plan.verdicts) == STEPS
    assert all(verdict.words for verdict in plan.verdicts)
    said = " ".join(verdict.words for verdict in plan.verdicts)
    for action in plan.actions:
        assert action.reason in said
        match action:
            case Record(revision=subject) | Forget(revision=subject) | Create(name=subject):
                assert subject in said
            case _:
                assert action.worker.name in said


def test_a_sleeping_model_wakes():
    fleet = SimulatedFleet(deployment())
    fleet.run(100)
    assert words(fleet.plan, "autoscale") == ("0 wanted: 0 waiting and 0 running need 0 replicas")
    assert words(fleet.plan, "workers") == "none exist"
    assert words(fleet.plan, "wake") == "nothing but an event changes the plan"
    fleet.waiting = 14
    plan = fleet.reconcile()
    needs = "14 waiting and 0 running need 2 replicas"
    assert words(plan, "autoscale") == f"2 wanted: {needs}"
    assert words(plan, "prove") == "revision aaaa was ready"
    assert words(plan, "start") == f"tiny-aaaa-0: {needs}; tiny-aaaa-1: {needs}"
    check(plan)


def test_a_new_revision_proves_itself_and_takes_over():
    fleet = SimulatedFleet(deployment(scaling=policy(min_replicas=2)))
    fleet.run(10)
    fleet.change(revision="bbbb")
    plan = fleet.reconcile()
    assert words(plan, "prove") == ("revision bbbb was never ready; the previous one is aaaa")
    assert words(plan, "rollout") == "1 current and 2 old of 2 should serve"
    assert words(plan, "history") == "bbbb: the spec asks for it"
    fleet.streams = dict.fromkeys(fleet.alive("aaaa"), 1)
    while words(fleet.plan, "drain") == "none":
        fleet.run(0.5)
    assert words(fleet.plan, "drain").endswith(": revision bbbb takes over")
    assert words(fleet.plan, "prove") == "revision bbbb was ready"
    fleet.run(0.5)
    assert words(fleet.plan, "workers") == "3 exist, 2 ready; 1 draining"
    assert words(fleet.plan, "rollout") == (
        "1 current and 1 old of 2 should serve; "
        "1 of the new revision wait for room (spec.rollout.maxSurge)"
    )


def test_a_new_revision_of_a_sleeping_model_says_why_it_starts():
    fleet = SimulatedFleet(deployment())
    fleet.run(100)
    fleet.change(revision="bbbb")
    assert words(fleet.reconcile(), "prove") == (
        "revision bbbb was never ready: a new revision starts one worker to prove itself; "
        "the previous one is aaaa"
    )


def test_failures_say_when_the_next_start_is_and_why():
    fleet = SimulatedFleet(deployment(), broken={"aaaa"})
    fleet.run(20)
    while fleet.workers:
        fleet.run(0.5)
    plan = fleet.reconcile()
    assert "in a row of the current revision (exit code 1" in words(plan, "failures")
    assert "the next start in" in words(plan, "failures")
    assert words(plan, "start").startswith("1 more in")
    assert words(plan, "wake").endswith(": the next start of revision aaaa")


def test_a_revision_that_is_given_up_says_so():
    one_by_one = RolloutPolicy(max_surge=0, max_unavailable=1)
    fleet = SimulatedFleet(deployment(scaling=policy(min_replicas=1), rollout=one_by_one))
    fleet.run(10)
    fleet.broken = {"bbbb"}
    fleet.change(revision="bbbb")
    fleet.run(60)
    assert words(fleet.plan, "give up").startswith("revision bbbb failed and takes no")


def test_a_worker_for_streams_of_an_old_revision_says_why():
    old = worker(0, revision="aaaa", draining_since=990)
    history = (PastRevision(revision="aaaa", number=1), PastRevision(revision="bbbb", number=2))
    new = worker(0, revision="bbbb")
    seen = Observed(deployment=deployment(revision="bbbb"), workers=(old, new), history=history)
    gateway = report(reachable=[new.id], hears=frozenset({old.id, new.id}))
    signals = Signals(
        gateways=(replace(gateway, awaited_revisions=frozenset({"aaaa"}), waiting=1),),
        stats={old.id: stats(running=1), new.id: stats()},
    )
    memory = Memory(revision="bbbb", last_ready_revision="bbbb", target=1, last_active=1000)
    plan = make_plan(seen, signals, 1000, memory, None)
    assert words(plan, "rescue") == "streams wait for aaaa"
    assert words(plan, "reroute") == (
        "tiny-aaaa-0: a stream that revision aaaa began waits for a worker like it"
    )


def test_placement_and_a_refusal_say_what_they_wait_for():
    waiting = worker(
        0,
        address="",
        accelerator="h100",
        accelerator_generation=1,
        problem=StartupProblem(reason=Reason.UNSCHEDULABLE, message="0/3 nodes", since=930),
    )
    refusal = Refusal(reason=Reason.QUOTA_EXCEEDED, message="exceeded quota", retry_at=1020)
    asked = deployment(accelerators=("h100", "a10"), fallback_after=60, refusal=refusal)
    classes = {"h100": Accelerator(generation=1), "a10": Accelerator(generation=1)}
    seen = Observed(deployment=asked, workers=(waiting,), accelerators=classes)
    plan = make_plan(seen, Signals(gateways=(report(),)), 1000, Memory(), None)
    assert words(plan, "placement") == (
        "new workers go to a10; h100 is short: 0/3 nodes; tiny-aaaa-0 moves: no room on "
        "accelerator class h100, so a10 is tried: 0/3 nodes"
    )
    assert words(plan, "start") == "1 more in 20 s: exceeded quota"
    check(plan)


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("load"), st.integers(0, 40)),
        st.tuples(st.just("run"), st.floats(0.5, 60)),
        st.tuples(st.just("kill"), st.integers(0, 9)),
        st.tuples(st.just("revise"), st.sampled_from(["aaaa", "bbbb", "cccc"])),
        st.tuples(st.just("break"), st.sampled_from(["bbbb", "cccc", ""])),
        st.tuples(st.just("streams"), st.integers(0, 9)),
        st.tuples(st.just("gateways"), st.integers(0, 2)),
    ),
    max_size=8,
)


@settings(max_examples=30, deadline=None)
@given(events=EVENTS)
def test_whatever_happens_every_action_is_in_the_verdicts_and_a_replay_says_the_same(events):
    fleet = SimulatedFleet(deployment())
    fleet.run(5, step=1)
    for kind, value in events:
        match kind, value:
            case "load", count:
                fleet.waiting = count
            case "run", seconds:
                fleet.run(seconds, step=2)
            case "kill", place if fleet.alive():
                fleet.kill(fleet.alive()[place % len(fleet.alive())])
            case "revise", revision:
                fleet.change(revision=revision)
            case "break", revision:
                fleet.broken = {revision}
            case "streams", place if fleet.routable():
                fleet.streams[fleet.routable()[place % len(fleet.routable())]] = 1
            case "gateways", count:
                fleet.gateways = tuple(f"gw{n}" for n in range(count))
        saved = (fleet.observe(), fleet.signals(), fleet.now, fleet.memory, fleet.status)
        plan = fleet.reconcile()
        check(plan)
        assert make_plan(*saved) == plan

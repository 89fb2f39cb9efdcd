"""The state of each worker, and what becomes of workers whose node is gone."""

from __future__ import annotations

from dataclasses import replace

from modelfleet_operator.decisions.actions import Create, Stop
from modelfleet_operator.decisions.interruption import Notice
from modelfleet_operator.decisions.memory import Memory
from modelfleet_operator.decisions.observed import Observed, Signals, WorkerState
from modelfleet_operator.decisions.plan import make_plan
from modelfleet_operator.decisions.reasons import Reason
from modelfleet_operator.decisions.signs import NoticeKind
from modelfleet_operator.decisions.startup_problem import StartupProblem
from modelfleet_operator.decisions.worker_groups import WorkerGroups, group_workers
from simulated_fleet import SimulatedFleet, deployment, policy, report, stats, worker

CORDON = Notice(kind=NoticeKind.CORDON, source="spec.unschedulable")


def test_every_worker_is_in_exactly_one_group():
    there = {
        "current": worker(0),
        "old": worker(0, revision="bbbb"),
        "leaving": worker(7, notice=CORDON),
        "moved": worker(1),
        "failed": worker(2),
        "draining": worker(3, draining_since=990),
        "stopping": worker(4, stopping=True, gone_by=1010),
        "lost": worker(5, stopping=True, gone_by=900),
        "exited": worker(6, failure="ended by SIGKILL"),
    }
    signals = Signals(
        gateways=(report(reachable=[there["current"].id]),),
        stats={
            there["current"].id: stats(),
            there["failed"].id: stats(WorkerState.FAILED, message="no config.json"),
        },
    )
    seen = Observed(deployment=deployment(), workers=tuple(there.values()))
    moved = ((there["moved"], "no room"),)
    groups = group_workers(seen, signals, 1000, Memory(), moved)
    assert groups == WorkerGroups(
        current=(there["current"],),
        old=(there["old"],),
        leaving=(there["leaving"],),
        moved=moved,
        failed=((there["failed"], "no config.json"),),
        draining=(there["draining"],),
        stopping=(there["stopping"],),
        lost=(there["lost"],),
        exited=(there["exited"],),
        ready=frozenset({there["current"].uid}),
        unhealthy={},
    )


def test_one_that_was_ready_is_unhealthy_for_a_while_and_failed_then():
    there = worker(0)
    seen = Observed(deployment=deployment(), workers=(there,))
    memory, unreached = Memory(was_ready=frozenset({there.uid})), Signals(gateways=(report(),))
    groups = group_workers(seen, unreached, 1000, memory, ())
    assert (groups.current, groups.unhealthy) == ((there,), {there.uid: 1000})
    memory = replace(memory, unhealthy=groups.unhealthy)
    assert group_workers(seen, unreached, 1029, memory, ()).current == (there,)
    assert group_workers(seen, unreached, 1030, memory, ()).failed == (
        (there, "no gateway has reached it for 30 s"),
    )


def lost_since(since: float) -> StartupProblem:
    return StartupProblem(reason=Reason.NODE_LOST, message="node n does not answer", since=since)


def test_a_worker_that_never_reached_its_node_is_placed_anew():
    def plan_at(now: float):
        placed = worker(0, address="", problem=lost_since(1000))
        seen = Observed(deployment=deployment(), workers=(placed,))
        return make_plan(seen, Signals(gateways=(report(),)), now, Memory(), None)

    early = plan_at(1035)
    assert not early.actions[1:]
    assert early.wake_at == 1040
    assert early.status.condition("Ready").reason == "NodeLost"
    late = plan_at(1040)
    assert [type(a) for a in late.actions if isinstance(a, Stop | Create)] == [Stop, Create]
    assert late.memory.failures.reason is Reason.NODE_LOST


def test_a_worker_that_answers_on_a_node_that_does_not_goes_on_serving():
    fleet = SimulatedFleet(deployment())
    fleet.run(10)
    (name,) = fleet.alive()
    fleet.workers[name] = replace(fleet.workers[name], problem=lost_since(fleet.now))
    fleet.run(40)
    assert fleet.alive() == [name]
    assert fleet.condition("Ready") == ("True", "Serving")
    assert fleet.condition("Reconciling") == ("True", "NodeLost")


def test_a_lost_worker_counts_for_nothing_and_blocks_no_other():
    fleet = SimulatedFleet(deployment(scaling=policy(min_replicas=1)))
    fleet.run(10)
    fleet.change(revision="bbbb")
    while not fleet.alive("bbbb") or fleet.alive("aaaa"):
        fleet.run(0.5)
    (stuck,) = [w for w in fleet.workers.values() if w.stopping]
    fleet._ends.clear()  # no kubelet ends it
    fleet.workers[stuck.name] = replace(stuck, gone_by=fleet.now + 75)
    fleet.run(70)
    assert fleet.condition("Reconciling")[0] == "True", "it may still end"
    fleet.run(40)
    assert fleet.condition("Reconciling") == ("False", "AsDesired")
    assert (fleet.status.replicas, fleet.status.ready_replicas) == (1, 1)

    fleet.change(revision="cccc")
    fleet.run(20)
    assert len(fleet.alive("cccc")) == 1, "the surge is not taken by what is lost"
    assert stuck.name in fleet.workers

"""A node dies: what ran there, what ends there, and what was just placed there."""

from __future__ import annotations

from dataclasses import replace

from modelfleet_operator.decisions.actions import Create, Stop
from modelfleet_operator.decisions.memory import Memory
from modelfleet_operator.decisions.observed import Observed, Signals
from modelfleet_operator.decisions.plan import make_plan
from modelfleet_operator.decisions.reasons import Reason
from modelfleet_operator.decisions.startup_problem import StartupProblem
from simulated_fleet import SimulatedFleet, deployment, policy, report, worker


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


def test_what_ends_on_a_dead_node_counts_for_nothing_and_blocks_nobody():
    fleet = SimulatedFleet(deployment(scaling=policy(min_replicas=1)))
    fleet.run(10)
    fleet.change(revision="bbbb")
    while not fleet.alive("bbbb") or fleet.alive("aaaa"):
        fleet.run(0.5)
    (stuck,) = [w for w in fleet.workers.values() if w.stopping]
    fleet._ends.clear()  # nobody ends it
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

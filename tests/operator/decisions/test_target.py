"""How many workers are wanted, and which revision is given up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modelfleet_operator.decisions.memory import Failures, Memory
from modelfleet_operator.decisions.observed import Observed, Signals
from modelfleet_operator.decisions.rollout import RolloutPolicy
from modelfleet_operator.decisions.target import Target, decide_given_up, decide_target
from modelfleet_operator.decisions.worker_groups import group_workers
from simulated_fleet import deployment, policy, report

READY = Memory(revision="aaaa", last_ready_revision="aaaa", target=0, last_active=1000)


def target(memory: Memory, *, waiting: int = 0, serving: int = 0, **spec) -> Target:
    signals = Signals(gateways=(report(waiting=waiting),))
    return decide_target(deployment(**spec), signals, 1000, memory, serving)


@pytest.mark.parametrize(
    ("memory", "waiting", "demand", "replicas"),
    [
        pytest.param(READY, 0, 0, 0, id="none of a revision that was ready and has no requests"),
        pytest.param(READY, 20, 3, 3, id="as many as the requests need"),
        pytest.param(
            replace(READY, last_ready_revision="bbbb"), 0, 0, 1, id="one to prove a new revision"
        ),
        pytest.param(
            replace(READY, last_ready_revision="bbbb"), 20, 3, 3, id="no extra one under load"
        ),
    ],
)
def test_the_autoscalers_count_but_one_at_least_to_prove_a_revision(
    memory, waiting, demand, replicas
):
    found = target(memory, waiting=waiting)
    assert (found.demand, found.replicas) == (demand, replicas)
    assert found.only_proves is (replicas > demand)
    assert found.reason


def test_a_count_that_a_person_sets_is_not_raised():
    external = policy(mode="External", replicas=0)
    assert target(Memory(), scaling=external).replicas == 0


def test_before_the_first_decision_the_serving_workers_count():
    assert target(replace(READY, target=None), serving=2).before == 2


@pytest.mark.parametrize(
    ("surge", "failures", "last_ready", "given_up"),
    [
        pytest.param(0, 3, "bbbb", "aaaa", id="three failures in a previous worker's place"),
        pytest.param(0, 2, "bbbb", "", id="not after two"),
        pytest.param(1, 3, "bbbb", "", id="not where there is surge to try it in"),
        pytest.param(0, 3, "", "", id="not without a previous revision"),
        pytest.param(0, 3, "aaaa", "", id="not once it was ready"),
    ],
)
def test_which_revision_is_given_up(surge, failures, last_ready, given_up):
    memory = replace(READY, failures=Failures(count=failures), last_ready_revision=last_ready)
    spec = deployment(rollout=RolloutPolicy(max_surge=surge, max_unavailable=1))
    groups = group_workers(Observed(deployment=spec), Signals(), 1000, memory, ())
    wanted = target(replace(memory, target=1))
    assert decide_given_up(spec, 1000, memory, groups, wanted) == given_up

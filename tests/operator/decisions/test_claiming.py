"""A start is a claim where a pool has a standby for it, and is created where it has none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet_operator.decisions.actions import Claim, Create, Credit, Load
from modelfleet_operator.decisions.capacity import ON_DEMAND, SPOT, SpotPolicy
from modelfleet_operator.decisions.claiming import is_claimable
from modelfleet_operator.decisions.memory import Memory
from modelfleet_operator.decisions.observed import Observed, Signals, Worker, WorkerState
from modelfleet_operator.decisions.plan import Plan, make_plan
from modelfleet_operator.decisions.standby import NO_POOL, PoolOffer, Standby
from modelfleet_operator.explain.report import describe
from simulated_fleet import deployment, policy, report, stats, worker


def standby(number: int = 0, pool: str = "gpus", **changes: Any) -> Standby:
    defaults: dict[str, Any] = {"namespace": "default", "name": f"{pool}-0a0a0a0a-s{number}"}
    defaults |= {"uid": f"{pool}-{number}", "pool": f"default/{pool}", "template": "0a0a0a0a"}
    defaults |= {"ordinal": number, "created": 900.0 + number, "address": "10.0.0.1:9000"}
    return Standby(**(defaults | {"is_up": True} | changes))


def offer(*standbys: Standby, pool: str = "gpus", **changes: Any) -> PoolOffer:
    return PoolOffer(pool=f"default/{pool}", standbys=standbys, **changes)


def plan(
    *pools: PoolOffer,
    workers: tuple[Worker, ...] = (),
    wanted: int = 1,
    signals: Signals | None = None,
    memory: Memory | None = None,
    **changes: Any,
) -> Plan:
    scaling = policy(min_replicas=wanted, max_replicas=max(wanted, 1))
    seen = Observed(deployment=deployment(scaling=scaling, **changes), workers=workers, pools=pools)
    signals = signals or Signals(gateways=(report(),))
    proven = memory or Memory(last_ready_revision="aaaa", revision="aaaa", target=wanted)
    return make_plan(seen, signals, 2000.0, proven, None)


def said(decided: Plan) -> str:
    return " ".join(verdict.words for verdict in decided.verdicts)


def starts(decided: Plan) -> list[str]:
    """What is first tried, or what is created."""
    return [
        action.candidates[0].name if isinstance(action, Claim) else action.name
        for action in decided.actions
        if isinstance(action, Claim | Create)
    ]


@pytest.mark.parametrize(
    ("pools", "changes", "start"),
    [
        pytest.param([], {}, "tiny-aaaa-0", id="no pool"),
        pytest.param([offer(standby())], {}, "gpus-0a0a0a0a-s0", id="one stands by"),
        pytest.param([offer()], {}, "tiny-aaaa-0", id="none stands by"),
        pytest.param([offer(standby(), refusal="too small")], {}, "tiny-aaaa-0", id="none fits"),
        pytest.param(
            [offer(standby(1), standby(0))], {}, "gpus-0a0a0a0a-s0", id="the oldest of two"
        ),
        pytest.param(
            [
                offer(standby(0), pool="gpus"),
                offer(standby(1, "held"), pool="held", loaded_model="default/tiny"),
                offer(standby(2, "other"), pool="other", loaded_model="default/other"),
            ],
            {},
            "held-0a0a0a0a-s1",
            id="the one that holds its model",
        ),
        pytest.param(
            [
                offer(standby(0, "other"), pool="other", loaded_model="default/other"),
                offer(standby(1)),
            ],
            {},
            "gpus-0a0a0a0a-s1",
            id="rather an empty one than one that holds another model",
        ),
        pytest.param([offer(standby())], {"warm_pool": NO_POOL}, "tiny-aaaa-0", id="opted out"),
        pytest.param([offer(standby())], {"warm_pool": "other"}, "tiny-aaaa-0", id="another asked"),
        pytest.param(
            [offer(standby()), offer(standby(0, "cpus"), pool="cpus")],
            {"warm_pool": "gpus"},
            "gpus-0a0a0a0a-s0",
            id="the one that is asked for",
        ),
        pytest.param([offer(standby(), accelerator="h100")], {}, "tiny-aaaa-0", id="another class"),
    ],
)
def test_claims_what_fits_and_creates_the_rest(
    pools: list[PoolOffer], changes: dict[str, Any], start: str
):
    decided = plan(*pools, **changes)
    assert starts(decided) == [start]
    assert all(action.reason in said(decided) for action in decided.actions)


def test_two_starts_of_one_plan_try_different_standbys_and_the_third_is_created():
    decided = plan(offer(standby(0), standby(1)), wanted=3)
    assert starts(decided) == ["gpus-0a0a0a0a-s0", "gpus-0a0a0a0a-s1", "tiny-aaaa-2"]
    first, second, third = decided.actions[-3:]
    assert isinstance(first, Claim)
    assert isinstance(second, Claim)
    assert [s.ordinal for s in second.candidates] == [1, 0], "if the first is lost, another may do"
    assert (first.create.ordinal, second.create.ordinal) == (0, 1)
    assert isinstance(third, Create)
    assert third.missed == "default/gpus"
    assert describe(first).startswith("Claim gpus-0a0a0a0a-s0 as tiny-aaaa-0: ")


def test_a_start_that_no_pool_fits_is_no_miss():
    (create,) = [a for a in plan(offer(refusal="x")).actions if isinstance(a, Create)]
    assert create.missed == ""


def test_an_old_revision_is_never_claimed():
    """The previous revision serves until the new one was ready: its pods are its own."""
    from modelfleet_operator.decisions.observed import PastRevision

    seen = Observed(
        deployment=deployment(revision="bbbb", scaling=policy(min_replicas=1)),
        history=(PastRevision(revision="aaaa", number=1),),
        pools=(offer(standby(0), standby(1)),),
    )
    memory = Memory(last_ready_revision="aaaa", revision="bbbb", target=1)
    decided = make_plan(seen, Signals(gateways=(report(),)), 2000.0, memory, None)
    created = [a for a in decided.actions if isinstance(a, Create)]
    claimed = [a for a in decided.actions if isinstance(a, Claim)]
    assert {a.revision for a in created} <= {"aaaa"}
    assert {a.create.revision for a in claimed} <= {"bbbb"}
    assert created
    assert claimed


def claimed(**changes: Any) -> Worker:
    defaults: dict[str, Any] = {"name": "gpus-0a0a0a0a-s0", "uid": "gpus-0", "created": 1999.0}
    return worker(0, claimed_from="default/gpus", **(defaults | {"placed_at": 1999.0} | changes))


def heard(state: WorkerState, **changes: Any) -> Signals:
    here = claimed().id
    is_ready = state is WorkerState.READY
    gateway = report(reachable=[here] if is_ready else [], hears=frozenset({here}))
    return Signals(gateways=(gateway,), stats={here: stats(state, **changes)})


def test_a_claimed_worker_without_a_model_is_told_again_which_and_after_a_while_replaced():
    """The operator ended between the claim and the call."""
    decided = plan(workers=(claimed(),), signals=heard(WorkerState.STANDBY))
    (load,) = [a for a in decided.actions if isinstance(a, Load)]
    assert load.worker.name == "gpus-0a0a0a0a-s0"
    assert starts(decided) == []
    loading = plan(workers=(claimed(),), signals=heard(WorkerState.LOADING))
    assert not [a for a in loading.actions if isinstance(a, Load)]
    own = plan(workers=(replace(claimed(), claimed_from=""),), signals=heard(WorkerState.STANDBY))
    assert not [a for a in own.actions if isinstance(a, Load)], "it begins by itself"


def test_a_claimed_worker_that_dies_is_replaced_at_once_by_another_claim_or_a_pod():
    dead = claimed(failure="ended by SIGKILL")
    assert starts(plan(offer(standby(1)), workers=(dead,))) == ["gpus-0a0a0a0a-s1"]
    assert starts(plan(offer(), workers=(dead,))) == ["tiny-aaaa-1"]


def test_what_a_claim_saved_is_credited_once_and_is_no_measure_of_a_start():
    memory = Memory(
        last_ready_revision="aaaa",
        revision="aaaa",
        target=1,
        wakes={"": ((0.0, 2.0, 30.0, 10.0, 1.0),)},
    )
    ready = heard(WorkerState.READY, ready_at=1999.6, phases=(("Weights", 1999.1),))
    decided = plan(workers=(claimed(),), signals=ready, memory=memory)
    (credit,) = [a for a in decided.actions if isinstance(a, Credit)]
    assert credit.reason in said(decided)
    assert credit.seconds == pytest.approx(42.4)
    assert "ready 0.60 s after its claim, a start takes 43.0 s" in credit.reason
    assert decided.memory.wakes == memory.wakes
    assert decided.memory.cold_start_seconds == memory.cold_start_seconds
    assert decided.memory.claim_seconds == pytest.approx(0.6)
    assert Memory.load(decided.memory.dump()).claim_seconds == pytest.approx(0.6)
    again = plan(workers=(claimed(),), signals=ready, memory=decided.memory)
    assert not [a for a in again.actions if isinstance(a, Credit)]


@pytest.mark.parametrize(
    ("pools", "changes", "words"),
    [
        pytest.param([], {}, "no warm pool is there for it", id="no pool"),
        pytest.param([], {"warm_pool": "gone"}, "there is no WarmPool gone in", id="a wrong name"),
        pytest.param([offer(refusal="it is large")], {}, "pool gpus: it is large", id="no fit"),
        pytest.param([offer()], {}, "pool gpus: none stands by", id="empty"),
        pytest.param(
            [offer(accelerator="h100")],
            {"warm_pool": "gpus"},
            "pool gpus has workers of class h100, and no class is needed",
            id="another class",
        ),
        pytest.param(
            [offer(standby())], {}, "tiny-aaaa-0 is gpus-0a0a0a0a-s0 of pool default/gpus", id="hit"
        ),
    ],
)
def test_explain_says_why_a_start_is_no_claim(
    pools: list[PoolOffer], changes: dict[str, Any], words: str
):
    (verdict,) = [v for v in plan(*pools, **changes).verdicts if v.step == "claim"]
    assert words in verdict.words


@given(count=st.integers(0, 5), wanted=st.integers(0, 6), existing=st.integers(0, 3))
def test_every_missing_worker_is_one_claim_or_one_start(count: int, wanted: int, existing: int):
    workers = tuple(worker(n) for n in range(existing))
    there = [standby(n) for n in range(count)]
    decided = plan(offer(*there), workers=workers, wanted=wanted)
    first = starts(decided)
    assert len(first) == len(set(first)) == max(wanted - existing, 0)
    claims = [a for a in decided.actions if isinstance(a, Claim)]
    assert len(claims) == min(len(first), count)
    ordinals = [a.create.ordinal for a in claims]
    ordinals += [a.ordinal for a in decided.actions if isinstance(a, Create)]
    assert not {w.ordinal for w in workers} & set(ordinals)


@pytest.mark.parametrize(
    ("policy", "capacity", "is_claimed"),
    [
        ("Only", SPOT, True),
        ("Only", ON_DEMAND, False),
        ("Only", "", False),  # a node that says neither is on demand
        ("Never", ON_DEMAND, True),
        ("Never", "", True),
        ("Never", SPOT, False),
        (None, SPOT, True),
    ],
)
def test_a_claim_keeps_the_capacity_that_is_asked_for(policy: Any, capacity: str, is_claimed: bool):
    spot = SpotPolicy(policy=policy) if policy else None
    decided = plan(offer(standby(capacity=capacity)), spot=spot)
    assert starts(decided) == ["gpus-0a0a0a0a-s0" if is_claimed else "tiny-aaaa-0"]
    if not is_claimed:
        where = "on spot" if policy == "Only" else "on demand"
        assert f"none stands by {where}" in said(decided)


def test_a_standby_whose_node_is_going_to_end_is_not_claimed():
    assert is_claimable(standby())
    assert not is_claimable(standby(leaves="SpotReclaim (condition PreemptionScheduled)"))


def test_only_pools_that_the_next_start_would_claim_of_are_counted_on():
    for there, changes, counted in (
        ((offer(counted_on=3), offer(pool="other", counted_on=2)), {}, 5),
        ((offer(counted_on=3), offer(pool="other", counted_on=2)), {"warm_pool": "other"}, 2),
        ((offer(counted_on=3),), {"warm_pool": NO_POOL}, 0),
        ((offer(counted_on=3, refusal="its worker has a token"),), {}, 0),
        ((offer(counted_on=3, accelerator="a10"),), {}, 0),
        ((offer(counted_on=3),), {"spot": SpotPolicy(policy="Prefer")}, 0),  # the next is on spot
        ((offer(counted_on=3),), {"spot": SpotPolicy(policy="Never")}, 3),
    ):
        assert plan(*there, **changes).standbys == counted

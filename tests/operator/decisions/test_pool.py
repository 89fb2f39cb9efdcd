"""What a warm pool does: refill, remove, keep its budget, and say in one sentence what is wrong."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet_operator.decisions.memory import Failures
from modelfleet_operator.decisions.observed import Accelerator
from modelfleet_operator.decisions.pool import (
    AddStandby,
    PoolPlan,
    RemoveStandby,
    count_on,
    decide_pool,
    standby_name,
)
from modelfleet_operator.decisions.pool_observed import Pool, PoolCounts, PoolObserved
from modelfleet_operator.decisions.pool_status import PoolStatus, parse_pool, render_pool
from modelfleet_operator.decisions.reasons import Reason
from modelfleet_operator.decisions.standby import Standby
from modelfleet_operator.decisions.startup_problem import StartupProblem

TEMPLATE = "0a0a0a0a"
UNSCHEDULABLE = StartupProblem(reason=Reason.UNSCHEDULABLE, message="no node", since=1000.0)


def pool(**changes: Any) -> Pool:
    defaults: dict[str, Any] = {"namespace": "default", "name": "gpus", "template": TEMPLATE}
    return Pool(**(defaults | {"size": 2, "generation": 1} | changes))


def standby(ordinal: int = 0, **changes: Any) -> Standby:
    name = standby_name("gpus", TEMPLATE, ordinal)
    defaults: dict[str, Any] = {"namespace": "default", "name": name, "uid": f"uid-{ordinal}"}
    defaults |= {"pool": "default/gpus", "template": TEMPLATE, "ordinal": ordinal}
    defaults |= {"created": 1000.0 + ordinal, "is_up": True, "placed_at": 1000.0, "address": "a:1"}
    return Standby(**(defaults | changes))


def plan(*standbys: Standby, now: float = 2000.0, **changes: Any) -> PoolPlan:
    prices = changes.pop("classes", {})
    seen = PoolObserved(pool=pool(**changes), standbys=standbys, accelerators=prices)
    return decide_pool(seen, now, Failures(), None)


def added(decided: PoolPlan) -> list[int]:
    return [action.ordinal for action in decided.actions if isinstance(action, AddStandby)]


def removed(decided: PoolPlan) -> list[int]:
    return [a.standby.ordinal for a in decided.actions if isinstance(a, RemoveStandby)]


def stalled(decided: PoolPlan) -> str:
    condition = decided.status.condition("Stalled")
    assert condition is not None
    return f"{condition.reason}: {condition.message}" if condition.holds else ""


CLAIMED = standby(0, claimed_by="default/smol")


@pytest.mark.parametrize(
    ("standbys", "new", "gone"),
    [
        pytest.param([], [0, 1], [], id="an empty pool is filled"),
        pytest.param([standby(0), standby(1)], [], [], id="a full one is left alone"),
        pytest.param([CLAIMED, standby(1)], [2], [], id="one that was claimed is replaced"),
        pytest.param([standby(0, is_up=False), standby(1)], [], [], id="one that starts counts"),
        pytest.param([standby(0), standby(1), standby(2)], [], [2], id="the youngest is too many"),
        pytest.param(
            [standby(0, is_up=False), standby(1), standby(2)], [], [0], id="what starts goes first"
        ),
        pytest.param([standby(0, template="0b0b0b0b")], [0, 1], [0], id="an outdated one goes"),
        pytest.param([standby(0, stopping=True), standby(1)], [2], [], id="one that ends is none"),
        pytest.param(
            [CLAIMED, standby(1, claimed_by="default/smol", template="0b0b0b0b"), standby(2)],
            [1],
            [],
            id="claimed ones are nobody's to remove",
        ),
    ],
)
def test_brings_the_standbys_to_the_size(standbys: list[Standby], new: list[int], gone: list[int]):
    decided = plan(*standbys)
    assert (added(decided), removed(decided)) == (new, gone)


def test_an_exited_one_is_removed_and_the_next_start_waits_ever_longer():
    failures, waits = Failures(), []
    now = 1000.0
    for number in range(5):
        broken = standby(0, uid=f"uid-{number}", failure="exit code 1: no kernels", is_up=False)
        seen = PoolObserved(pool=pool(size=1), standbys=(broken,))
        decided = decide_pool(seen, now, failures, None)
        failures = decided.failures
        assert removed(decided) == [0]
        waits.append(failures.retry_at - now)
        now = failures.retry_at
    assert waits == [0, 1, 2, 4, 8]
    condition = decided.status.condition("Ready")
    assert condition is not None
    assert "5 in a row exited, the last one: exit code 1: no kernels" in condition.message


def test_a_claimed_one_is_followed_a_moment_later_so_that_its_load_has_the_processor():
    just = standby(0, claimed_by="default/smol", claimed_at=1999.0)
    before = standby(1, claimed_by="default/smol", claimed_at=1990.0)
    decided = plan(just, before, standby(2), size=3)
    assert added(decided) == [3], "one follows the earlier claim"
    assert decided.wake_at == 2001.0
    assert added(plan(just, before, standby(2), size=3, now=2001.0)) == [3, 4]
    empty = plan(just, size=1)
    assert (added(empty), empty.wake_at) == ([], 2001.0)


@pytest.mark.parametrize("names", [("tiny",), ("tiny", "small")])
def test_a_model_that_is_not_there_is_said_and_hinders_nothing(names: tuple[str, ...]):
    decided = plan(missing_models=names)
    assert f"the spec names {' and '.join(names)}, and there is no such" in stalled(decided)
    assert len(added(decided)) == 2


def test_says_why_standbys_do_not_hold_the_model():
    decided = plan(why_not_loaded="spec.loadedModel tiny claims no standby of this pool: why")
    assert "spec.loadedModel tiny claims" in stalled(decided)


CLASSES = {"h100": Accelerator(generation=1, price=Decimal("2.50"))}


@pytest.mark.parametrize(
    ("changes", "sentence", "starts"),
    [
        pytest.param(
            {"accelerator": "h10"},
            "AcceleratorClassMissing: there is no AcceleratorClass h10: create it, or correct "
            "spec.accelerator",
            0,
            id="an unknown class",
        ),
        pytest.param(
            {"accelerator": "h100", "size": 5, "max_hourly_cost": Decimal(8)},
            "BudgetTooSmall: spec.size 5 at 2.50 an hour costs 12.50, above spec.maxHourlyCost 8: "
            "3 are kept; lower the size or raise the budget",
            3,
            id="larger than its budget",
        ),
        pytest.param(
            {"size": 5, "max_hourly_cost": Decimal(8)},
            "PriceMissing: there is no price for a pool without one, so spec.maxHourlyCost cannot "
            "be kept and none is started: give the class a price, or remove maxHourlyCost",
            0,
            id="a budget without a price",
        ),
        pytest.param(
            {"size": 0, "error": "spec.size: expected a whole number"},
            "InvalidSpec: spec.size: expected a whole number",
            0,
            id="a spec that cannot be read",
        ),
        pytest.param({"accelerator": "h100"}, "", 2, id="all is well"),
        pytest.param({"accelerator": "h10", "needs_class": False}, "", 2, id="one machine"),
    ],
)
def test_says_in_one_sentence_what_a_person_must_correct(
    changes: dict[str, Any], sentence: str, starts: int
):
    decided = plan(classes=CLASSES, **changes)
    assert stalled(decided) == sentence
    assert len(added(decided)) == starts


def test_what_still_ends_is_paid_until_it_is_gone():
    """Two of three are outdated, and the budget pays three."""
    there = [
        standby(n, accelerator="h100", accelerator_generation=1, stopping=n < 2) for n in range(3)
    ]
    budget: dict[str, Any] = {"accelerator": "h100", "size": 3, "max_hourly_cost": Decimal(8)}
    assert added(plan(*there, classes=CLASSES, **budget)) == []
    assert added(plan(*there[1:], classes=CLASSES, **budget)) == [0]
    claimed = replace(there[2], claimed_by="default/smol")
    assert added(plan(claimed, classes=CLASSES, **budget)) == [0, 1, 3]


def test_a_class_that_was_changed_gets_new_standbys():
    old = standby(0, accelerator="h100", accelerator_generation=1)
    classes = {"h100": Accelerator(generation=2)}
    assert removed(plan(old, classes=classes, accelerator="h100")) == [0]
    assert removed(plan(old, classes={}, accelerator="h100")) == [], "one that is gone may return"


def test_the_status_counts_and_is_read_again():
    counts = PoolCounts(hits=3, misses=1, seconds_saved=120.5)
    there = (standby(0, accelerator="h100", accelerator_generation=1), CLAIMED)
    seen = PoolObserved(
        pool=pool(accelerator="h100"), standbys=there, accelerators=CLASSES, counts=counts
    )
    status = decide_pool(seen, 2000.0, Failures(), None).status
    rendered = render_pool(status)
    assert rendered | {"conditions": []} == {
        "observedGeneration": 1,
        "conditions": [],
        "standby": 1,
        "starting": 0,
        "claimed": 1,
        "hits": 3,
        "misses": 1,
        "secondsSaved": 120,
        "hourlyCost": "2.50",
    }
    ready = next(c for c in rendered["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["message"]) == ("False", "1 of 2 stand by")
    assert parse_pool(rendered) == replace(status, seconds_saved=120.0)


def test_a_condition_keeps_the_time_of_its_last_change():
    first = plan(now=1000.0).status
    seen = PoolObserved(pool=pool(), standbys=(standby(0),))
    again = decide_pool(seen, 1010.0, Failures(), first).status
    assert [c.changed for c in again.conditions] == [1000.0] * 3


standbys = st.builds(
    standby,
    st.integers(0, 9),
    claimed_by=st.sampled_from(["", "", "default/smol"]),
    stopping=st.booleans(),
    is_up=st.booleans(),
    failure=st.sampled_from([None, None, "exit code 1"]),
    template=st.sampled_from([TEMPLATE, "0b0b0b0b"]),
    accelerator=st.just("h100"),
    accelerator_generation=st.integers(1, 2),
)


@given(
    there=st.lists(standbys, max_size=9, unique_by=lambda s: s.ordinal),
    size=st.integers(0, 8),
    budget=st.none() | st.integers(0, 30).map(Decimal),
    price=st.sampled_from([Decimal("2.50"), Decimal(0), Decimal(7), None]),
)
def test_never_exceeds_its_budget_nor_its_size_and_touches_no_claimed_one(
    there: list[Standby], size: int, budget: Decimal | None, price: Decimal | None
):
    classes = {"h100": Accelerator(generation=1, price=price)}
    decided = plan(*there, classes=classes, accelerator="h100", size=size, max_hourly_cost=budget)
    new, gone = added(decided), removed(decided)
    assert not {s.ordinal for s in there if s.claimed_by} & set(gone)
    assert not {s.ordinal for s in there if s.template == TEMPLATE} & set(new), "a name is taken"
    kept = [s for s in there if s.is_unclaimed and s.ordinal not in gone]
    assert len(kept) + len(new) <= max(size, len(kept))
    assert len(kept) <= size
    if new and budget is not None:
        assert price is not None
        held = [s for s in there if not s.claimed_by and s.failure is None]
        assert (len(held) + len(new)) * price <= budget


@given(there=st.lists(standbys, max_size=9, unique_by=lambda s: s.ordinal), size=st.integers(0, 8))
def test_a_few_rounds_fill_it(there: list[Standby], size: int):
    """What is asked for is done at once: then nothing is left to do, and nothing flaps."""
    classes = {"h100": Accelerator(generation=1)}
    now, number = 2000.0, 100
    failures, status = Failures(), None
    for _ in range(6):
        seen = PoolObserved(
            pool=pool(accelerator="h100", size=size), standbys=tuple(there), accelerators=classes
        )
        decided = decide_pool(seen, now, failures, status)
        failures, status, now = decided.failures, decided.status, now + 120
        left = [s for s in there if not s.stopping and s.ordinal not in removed(decided)]
        there = [replace(s, is_up=True) for s in left]
        for ordinal in added(decided):
            number += 1
            there.append(
                standby(ordinal, uid=f"uid-{number}", accelerator="h100", accelerator_generation=1)
            )
    assert decided.actions == ()
    assert isinstance(status, PoolStatus)
    assert status.standby == size


def test_a_standby_whose_node_is_going_to_end_is_replaced():
    decided = plan(standby(0, leaves="Cordon (spec.unschedulable)"), standby(1))
    (remove,) = [a for a in decided.actions if isinstance(a, RemoveStandby)]
    assert (remove.standby.ordinal, remove.reason) == (
        0,
        "its node is going to end: Cordon (spec.unschedulable)",
    )
    assert added(decided) == [2]


def test_a_deployment_counts_on_what_stands_by_or_is_on_its_way():
    starting = standby(1, is_up=False, address="")
    stuck = standby(1, is_up=False, address="", problem=UNSCHEDULABLE)
    claimed = standby(2, claimed_by="default/a", claimed_at=1998.0)
    for there, changes, sharing, counted in (
        ((standby(0), starting), {}, 1, 2),
        ((standby(0), stuck), {}, 1, 1),
        ((standby(0), starting, claimed), {"size": 3}, 1, 3),  # it is replaced in a moment
        ((standby(0), replace(claimed, claimed_at=1900.0)), {"size": 3}, 1, 1),
        ((standby(0), starting, claimed), {"size": 3}, 2, 1),
        ((standby(0), starting, claimed), {"size": 2}, 1, 2),
        ((), {}, 1, 0),
    ):
        seen = PoolObserved(pool=pool(**changes), standbys=there)
        assert count_on(seen, 2000.0, sharing) == counted

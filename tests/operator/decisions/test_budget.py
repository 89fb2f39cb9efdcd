"""spec.scaling.maxHourlyCost: growth stops, nothing that runs ends, and the status says it."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from modelfleet_operator.decisions.observed import Accelerator
from simulated_fleet import SimulatedFleet, deployment, policy

PRICES = {"a10": Accelerator(generation=1, price=Decimal("2.50"))}


class PricedFleet(SimulatedFleet):
    """All of its workers are of one class."""

    def observe(self):
        from dataclasses import replace

        seen = super().observe()
        workers = tuple(
            replace(w, accelerator="a10", accelerator_generation=1, placed_at=w.created)
            for w in seen.workers
        )
        return replace(seen, workers=workers, accelerators=PRICES)

    @property
    def cost(self) -> Decimal:
        return Decimal("2.50") * len(self.existing())


def fleet(limit: str | None, **scaling) -> PricedFleet:
    cost = None if limit is None else Decimal(limit)
    chosen = policy(max_replicas=20, max_hourly_cost=cost, **scaling)
    return PricedFleet(deployment(scaling=chosen, accelerators=("a10",)))


def test_growth_stops_at_the_budget_and_the_condition_says_what_waits():
    busy = fleet("8")
    busy.waiting = 40
    busy.run(10)
    assert len(busy.existing()) == 3
    assert busy.condition("BudgetLimited") == ("True", "BudgetReached")
    message = busy.status.condition("BudgetLimited").message
    assert "7.50" in message
    assert "2 wanted workers" in message
    assert "maxHourlyCost allows 3" in busy.status.scaling_history[-1].reason
    busy.waiting = 20
    busy.run(60)
    assert busy.condition("BudgetLimited") == ("False", "WithinBudget")


def test_the_minimum_runs_all_the_same_and_a_person_is_asked():
    minimum = fleet("5", min_replicas=3)
    minimum.run(10)
    assert len(minimum.existing()) == 3
    assert minimum.condition("Stalled") == ("True", "MinimumAboveBudget")
    assert minimum.condition("Ready") == ("True", "Serving")
    assert "7.50" in minimum.status.condition("Stalled").message


def test_a_lower_budget_ends_no_worker():
    busy = fleet(None)
    busy.running = 40
    busy.run(10)
    assert len(busy.existing()) == 5
    busy.change(scaling=policy(max_replicas=20, max_hourly_cost=Decimal(5)))
    busy.run(10)
    assert len(busy.existing()) == 5


def test_without_prices_nothing_is_limited():
    unpriced = SimulatedFleet(
        deployment(scaling=policy(max_hourly_cost=Decimal(1), max_replicas=3))
    )
    unpriced.waiting = 20
    unpriced.run(10)
    assert len(unpriced.existing()) == 3
    assert unpriced.condition("BudgetLimited") == ("Unknown", "PriceUnknown")


def test_a_change_rolls_within_the_budget():
    full = fleet("5", min_replicas=2)
    full.run(10)
    full.change(revision="bbbb")
    for _ in range(60):
        full.run(0.5)
        assert full.cost <= 5
    assert len(full.alive("bbbb")) == 2
    assert full.alive("aaaa") == []


@given(
    st.lists(st.tuples(st.integers(0, 200), st.floats(0.5, 8)), max_size=6),
    st.integers(0, 3),
    st.sampled_from(["0", "2.49", "7.5", "12", "40"]),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_the_budget_is_never_exceeded(loads, minimum: int, limit: str, rolls: bool):
    any_fleet = fleet(limit, min_replicas=minimum, scale_down_delay=5)
    most = max(Decimal(limit), minimum * Decimal("2.50"))
    for place, (waiting, seconds) in enumerate(loads):
        any_fleet.waiting = waiting
        if rolls and place == 3:
            any_fleet.change(revision="bbbb")
        any_fleet.run(seconds)
        assert any_fleet.cost <= most

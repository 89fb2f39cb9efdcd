"""Prices that change at a moment."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet_operator.decisions.cost import price_at
from modelfleet_operator.decisions.observed import Accelerator, Observed, PriceChange
from modelfleet_operator.decisions.prices import (
    current_prices,
    next_price_change,
    price_now,
    with_current_prices,
)
from simulated_fleet import deployment

CLASS = Accelerator(
    price=Decimal(4),
    spot_price=Decimal(1),
    price_changes=(
        PriceChange(at=2000.0, price=Decimal(5)),
        PriceChange(at=1000.0, price=Decimal(3), spot_price=Decimal(2)),
    ),
)


@pytest.mark.parametrize(
    ("now", "on_demand", "spot"),
    [
        pytest.param(999.0, 4, 1, id="before the first"),
        pytest.param(1000.0, 3, 2, id="at its moment"),
        pytest.param(1999.0, 3, 2, id="until the next"),
        pytest.param(9999.0, 5, 5, id="the last one, whose spot is as on demand"),
    ],
)
def test_the_latest_change_counts(now: float, on_demand: int, spot: int):
    prices = {"h100": price_now(CLASS, now)}
    assert price_at(prices, "h100", "OnDemand") == on_demand
    assert price_at(prices, "h100", "Spot") == spot


def test_nothing_is_copied_where_no_price_changes():
    classes = {"h100": Accelerator(price=Decimal(4))}
    seen = Observed(deployment=deployment(accelerators=("h100", "gone")), accelerators=classes)
    assert with_current_prices(seen, 5000.0) is seen
    assert next_price_change(seen, 0.0) is None
    assert current_prices(classes, ["h100"], 5000.0) is classes


def test_the_plan_wakes_at_the_next_change():
    seen = Observed(deployment=deployment(accelerators=("h100",)), accelerators={"h100": CLASS})
    assert [next_price_change(seen, now) for now in (0, 1000, 2000)] == [1000.0, 2000.0, None]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), unique_by=lambda c: c[0]))
def test_at_each_moment_one_of_the_prices_counts(changes: list[tuple[int, int]]):
    changing = Accelerator(
        price=Decimal(100),
        price_changes=tuple(PriceChange(at=float(t), price=Decimal(p)) for t, p in changes),
    )
    for now in range(52):
        past = [(t, p) for t, p in changes if t <= now]
        assert price_now(changing, float(now)).price == (max(past)[1] if past else 100)

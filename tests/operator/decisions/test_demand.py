"""Rates, variance, errors of the forecast and the trend's gate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet_operator.decisions.demand import ERRORS, RING, Demand


def fed(*parts: tuple[float, float], horizon: float = 60.0) -> Demand:
    """Each part: so many seconds at so many requests a second, looked at every two seconds."""
    demand, now, left = Demand().take(1000.0, 0, horizon), 1000.0, 0.0
    for seconds, rate in parts:
        end = now + seconds
        while now < end:
            now += 2.0
            left += 2.0 * rate
            demand, left = demand.take(now, int(left), horizon), left % 1
    return demand


def test_measures_the_rate_in_both_windows():
    assert fed((300, 4)).base == pytest.approx(4, rel=0.02)
    burst = fed((300, 4), (20, 10))
    assert (burst.short, burst.base) == (pytest.approx(10, rel=0.1), pytest.approx(5, rel=0.1))
    assert fed((300, 4), (20, 0)).base == pytest.approx(4 * 100 / 120, rel=0.1)


def test_an_even_load_needs_no_margin_and_an_uneven_one_does():
    even = fed((1200, 4))
    assert even.deviation < 0.2
    assert even.error(0.95) < 0.2
    uneven = fed(*[(40, 8), (40, 0)] * 15)
    assert uneven.deviation > 1
    assert uneven.error(0.95) > 2


def test_the_trend_counts_where_it_was_right_and_not_where_it_was_wrong():
    ramp = fed(*((60, 0.5 * n) for n in range(40)), horizon=300)
    assert ramp.trend > 0
    waves = fed(*[(150, 4), (150, 8)] * 12, horizon=300)
    assert waves.trend == 0


def test_a_clock_that_steps_back_begins_anew_and_keeps_what_was_learned():
    demand = fed((600, 4))
    stepped = demand.take(500.0, 3, 60.0)
    assert stepped.errors == demand.errors
    assert stepped.take(502.0, 3, 60.0).base < 1


@given(
    st.lists(st.tuples(st.floats(0.1, 100), st.integers(0, 1000)), max_size=300),
    st.sampled_from([3.0, 60.0, 300.0]),
)
def test_it_stays_small_and_no_number_is_negative(samples, horizon: float):
    demand, now = Demand(), 1e9
    for pause, came in samples:
        now += pause
        demand = demand.take(now, came, horizon)
    assert len(demand.counts) <= 2 * RING + 5
    assert len(demand.said) <= 80
    assert len(demand.errors) <= ERRORS
    assert min(demand.base, demand.trend, demand.variance, demand.error(0.9)) >= 0

"""Rates, noise, and how much more came than was said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet_operator.decisions.demand import BUSY, ERRORS, RING, Demand


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


def test_after_a_pause_the_rate_is_that_of_the_seconds_since():
    assert fed((600, 4), (600, 0), (10, 30)).level == pytest.approx(30, rel=0.2)
    silent = fed((600, 4), (600, 0))
    woken = silent.take(5000.0, 20, 60.0)  # nobody looked for an hour
    assert woken.short >= 20 / 4


def test_what_comes_within_one_request_is_there_at_once_so_a_shorter_burst_is_none():
    def level(service: float) -> float:
        demand, now = Demand().take(1000.0, 0, 60.0), 1000.0
        highest = 0.0
        for part in range(900):
            now += 2.0
            demand = demand.take(now, 16 if part // 10 % 2 else 0, 60.0, service)
            highest = max(highest, demand.short if part > 100 else 0.0)
        return highest

    assert level(0.0) == pytest.approx(8, rel=0.1)
    assert level(40.0) == pytest.approx(4, rel=0.1)


def test_a_jump_counts_at_once_and_noise_does_not():
    assert fed((1200, 4), (20, 12)).level > 11
    noisy = fed(*[(20, 6), (20, 2)] * 30, (20, 6))
    assert noisy.short == pytest.approx(6, rel=0.1)
    assert noisy.level == pytest.approx(4, rel=0.15)


def test_an_even_load_needs_no_margin_and_an_uneven_one_does():
    even = fed((1200, 4))
    assert even.deviation < 0.2
    assert even.error(0.95, 2200.0) < 0.2
    uneven = fed(*[(40, 8), (40, 0)] * 15)
    assert uneven.deviation > 1
    assert uneven.error(0.95, 2200.0) > 2


def test_noise_grows_with_the_root_of_the_load():
    noisy = fed(*[(20, 6), (20, 2)] * 30)
    later = fed(*[(20, 6), (20, 2)] * 30, (120, 1))
    assert later.deviation == pytest.approx(noisy.deviation / 2, rel=0.35)


def test_a_burst_is_an_error_for_an_hour_if_it_lasted_longer_than_a_start():
    burst = fed((900, 1), (600, 9), (600, 1), horizon=300.0)
    assert burst.error(0.95, 3100.0) > 7
    assert burst.error(0.95, 3100.0 + 3600) == 0
    assert burst.busiest(3100.0) == pytest.approx(9, rel=0.1)
    assert burst.busiest(3100.0 + 4000) == 0
    short = fed((900, 1), (600, 9), (600, 1), horizon=8.0)
    assert short.error(0.95, 3100.0) < 1


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
    assert len(demand.busy) <= BUSY + 1
    assert min(demand.base, demand.level, demand.deviation, demand.error(0.9, now)) >= 0

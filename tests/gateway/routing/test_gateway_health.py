"""Outliers get nothing for a while, and never all of them."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet_gateway.routing.health import (
    HEALTHY,
    LONGEST_EJECTION,
    Health,
    after_answer,
    after_failure,
    after_stats,
    without_outliers,
)


@dataclass(frozen=True)
class Worker:
    name: str
    health: Health = HEALTHY


def failed(times: int, now: float = 0.0, health: Health = HEALTHY) -> Health:
    for _ in range(times):
        health = after_failure(health, now)
    return health


def test_the_third_failure_in_a_row_ejects_for_longer_each_time():
    assert not failed(2).is_ejected(0)
    assert not after_failure(after_answer(failed(2)), 0).is_ejected(0), "not in a row"
    health, ended = failed(3), []
    for _ in range(7):
        ended.append(health.ejected_until)
        health = after_failure(health, health.ejected_until)
    assert ended == [10, 30, 70, 150, 310, 610, 910]
    assert ended[-1] - ended[-2] == LONGEST_EJECTION


def test_what_fails_while_it_is_ejected_changes_nothing():
    """Calls that it had before end, too."""
    assert failed(20).ejected_until == failed(3).ejected_until


def test_an_answer_makes_it_as_any_other():
    again = after_answer(failed(4, health=failed(3), now=11.0))
    assert again == HEALTHY


def test_steps_far_longer_than_usual_eject_it_until_they_are_as_before():
    health = HEALTHY
    for second in range(60):
        health = after_stats(health, 0.005, second)
    for second in range(60, 64):
        health = after_stats(health, 0.06, second)
    assert not health.is_ejected(63.5), "a long prompt takes so long, too"
    health = after_stats(health, 0.06, 64)
    assert health.is_ejected(73.9)
    assert not health.is_failing
    for second in range(75, 80):
        health = after_stats(health, 0.06, second)
    assert health.ejected_until == 79 + 20
    health = after_stats(health, 0.005, 100)
    assert (health.ejections, health.slow, health.is_ejected(100)) == (0, 0, False)


def test_a_heavier_load_is_no_reason():
    health = HEALTHY
    for second in range(300):
        health = after_stats(health, 0.005 if second < 100 else 0.03, second)
    assert not health.is_ejected(301)


SLOW = Health(ejected_until=10.0)
FAILING = Health(ejected_until=10.0, is_failing=True)


@pytest.mark.parametrize(
    ("able", "full", "left"),
    [
        ([HEALTHY, FAILING], [], [0]),
        ([HEALTHY, SLOW], [], [0]),
        ([FAILING], [], [0]),
        ([FAILING, FAILING], [], [0, 1]),
        ([FAILING, FAILING, HEALTHY], [], [0, 1, 2]),
        ([FAILING, FAILING, HEALTHY, HEALTHY], [], [2, 3]),
        ([FAILING], [HEALTHY], []),
        ([SLOW], [HEALTHY], [0]),
    ],
)
def test_who_gets_requests(able, full, left):
    workers = [Worker(f"w-{n}", health) for n, health in enumerate(able)]
    ready = [*workers, *(Worker(f"full-{n}", health) for n, health in enumerate(full))]
    assert without_outliers(workers, ready, now=5.0) == [workers[n] for n in left]
    assert without_outliers(workers, ready, now=10.0) == workers, "its time is over"


@given(st.lists(st.sampled_from([HEALTHY, SLOW, FAILING]), min_size=1, max_size=8), st.data())
def test_there_is_always_one_that_gets_requests(healths, data):
    ready = [Worker(f"w-{n}", health) for n, health in enumerate(healths)]
    able = data.draw(st.lists(st.sampled_from(ready), unique=True, min_size=1))
    left = without_outliers(able, ready, now=5.0)
    assert left or any(not w.health.is_ejected(5.0) for w in ready)
    assert without_outliers(ready, ready, now=5.0)

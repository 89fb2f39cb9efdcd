"""How far a load is and when it ends, by what the last one took."""

from __future__ import annotations

import itertools

import pytest

from modelfleet_operator.decisions.load_estimate import (
    PhaseStart,
    estimate_load,
    learn_phases,
    note_phase,
)

LEARNED = {"Starting": 4.0, "Imports": 3.0, "Weights": 2.0, "Warmup": 1.0}


def load(seconds: dict[str, float], started: float = 1000.0) -> list[tuple[PhaseStart, ...]]:
    """The phases of a load, each as it begins."""
    phases: tuple[PhaseStart, ...] = ()
    seen, now = [], started
    for phase, took in seconds.items():
        phases = note_phase(phases, phase, now)
        seen.append(phases)
        now += took
    return seen


def at(seconds: dict[str, float], elapsed: float) -> tuple[PhaseStart, ...]:
    return next(p for p in reversed(load(seconds)) if p[-1][1] <= 1000.0 + elapsed)


def test_a_load_teaches_how_long_each_phase_takes():
    phases = load(LEARNED)[-1]
    assert learn_phases(phases, 1010.0) == LEARNED
    downloaded = load({"Starting": 4.0, "Download": 60.0, "Imports": 3.0})[-1]
    assert learn_phases(downloaded, 1067.0) == {"Starting": 4.0, "Imports": 3.0}


@pytest.mark.parametrize(
    ("elapsed", "percent", "left"),
    [
        pytest.param(0.0, 0, 10.0, id="the beginning"),
        pytest.param(2.0, 20, 8.0, id="before the worker says anything"),
        pytest.param(5.5, 55, 4.5, id="in its imports"),
        pytest.param(9.5, 95, 0.5, id="shortly before the end"),
    ],
)
def test_a_load_like_the_last_one_moves_with_the_time(elapsed: float, percent: int, left: float):
    now = 1000.0 + elapsed
    estimate = estimate_load(at(LEARNED, elapsed), LEARNED, now, said_percent=30, said_eta=1.0)
    assert estimate.percent == percent
    assert estimate.eta - now == pytest.approx(left)


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("learned", [LEARNED, {}], ids=["learned", "first"])
def test_neither_the_percentage_falls_nor_does_the_eta_come_to_nothing(learned, factor: float):
    """The last load took `1 / factor` of this one's time."""
    taken = {phase: seconds * factor for phase, seconds in LEARNED.items()}
    said = {"Starting": 0.0, "Imports": 0.0, "Weights": 30.0, "Warmup": 85.0}
    whole = sum(taken.values())
    estimates = []
    for tenth in range(int(whole * 10)):
        now = 1000.0 + tenth / 10
        phases = at(taken, tenth / 10)
        estimates.append(
            (now, estimate_load(phases, learned, now, said_percent=said[phases[-1][0]]))
        )
    for (_, before), (now, after) in itertools.pairwise(estimates):
        assert after.percent >= before.percent
        if learned:
            assert after.eta > now, "while it loads, something is left"
            # It is never thought to take much longer than a moment ago.
            assert after.eta - before.eta <= 2
    longest_still = max(len(list(g)) for _, g in itertools.groupby(e.percent for _, e in estimates))
    assert longest_still <= 0.4 * len(estimates), "most of the wait something moves"


def test_a_phase_that_takes_longer_than_the_last_time_does_not_count_down_to_nothing():
    learned = {"Starting": 4.0, "Weights": 6.0}
    phases = (("Starting", 1000.0), ("Weights", 1004.0))
    slow = estimate_load(phases, learned, 1016.0)
    assert slow.percent == 96
    assert slow.eta == 1018.0


def test_the_eta_of_a_slow_load_changes_seldom_since_every_gateway_hears_of_it():
    phases = (("Starting", 1000.0),)
    etas = [estimate_load(phases, LEARNED, 1000 + tenth / 10).eta for tenth in range(6000)]
    assert len(set(etas)) < 90, "in ten minutes"
    assert etas == sorted(etas)


def test_a_download_goes_by_what_the_worker_says():
    phases = (("Starting", 1000.0), ("Download", 1004.0))
    estimate = estimate_load(phases, LEARNED, 1010.0, said_percent=30, said_eta=1060.0)
    assert (estimate.percent, estimate.eta) == (58, 1060.0)
    starting = estimate_load(phases[:1], LEARNED, 1003.9)
    begun = estimate_load(phases, LEARNED, 1004.0, said_percent=0)
    assert starting.percent <= begun.percent
    after = (*phases, ("Imports", 1050.0))
    assert estimate_load(after, LEARNED, 1050.0, said_percent=75).percent >= 58


def test_an_eta_of_the_past_is_no_eta():
    phases = (("Starting", 1000.0), ("Weights", 1004.0))
    assert estimate_load(phases, {}, 1010.0, said_percent=40, said_eta=1009.0).eta == 0.0
    assert estimate_load(phases, {}, 1010.0, said_percent=40, said_eta=1012.0).eta == 1012.0

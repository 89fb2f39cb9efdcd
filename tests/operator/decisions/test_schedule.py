"""When schedules are in force, across weekends and daylight saving time."""

from __future__ import annotations

import math
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from modelfleet_operator.decisions.schedule import Schedule, cron_problem, in_force

BERLIN = "Europe/Berlin"
OFFICE = Schedule(start="0 8 * * 1-5", end="0 18 * * 1-5", time_zone=BERLIN, min_replicas=4)


def at(text: str) -> float:
    """Unix seconds of a time in Berlin."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(BERLIN)).timestamp()


@pytest.mark.parametrize(
    ("moment", "replicas"),
    [
        ("2026-11-30T07:58:00", 0),
        pytest.param("2026-11-30T07:59:00", 4, id="ahead, so that they are ready"),
        ("2026-11-30T08:00:00", 4),
        ("2026-11-30T17:59:59", 4),
        ("2026-11-30T18:00:00", 0),
        pytest.param("2026-11-28T12:00:00", 0, id="a Saturday"),
        pytest.param("2026-03-30T08:00:00", 4, id="the day after the clocks went forward"),
    ],
)
def test_is_in_force_from_start_to_end(moment: str, replicas: int):
    assert in_force([OFFICE], at(moment), lead=60).min_replicas == replicas


def test_the_highest_of_several_counts_and_each_change_is_announced():
    lunch = Schedule(start="0 12 * * *", end="0 13 * * *", time_zone=BERLIN, min_replicas=9)
    noon = in_force([OFFICE, lunch], at("2026-11-30T12:30:00"), lead=0)
    assert (noon.min_replicas, noon.changes_at) == (9, at("2026-11-30T13:00:00"))
    assert "0 12 * * *" in noon.words
    early = in_force([OFFICE, lunch], at("2026-11-30T06:00:00"), lead=300)
    assert early.changes_at == at("2026-11-30T07:55:00")


def test_without_schedules_nothing_is_asked_for():
    assert in_force([], 0.0, 60).changes_at == math.inf


@pytest.mark.parametrize(
    ("line", "zone", "words"),
    [
        ("0 8 * * 1-5", "Europe/Berlin", ""),
        ("0 25 * * *", "UTC", "no cron line"),
        ("0 0 30 2 *", "UTC", "30 2"),
        ("0 8 * * *", "Mars/Base", "no time zone 'Mars/Base'"),
    ],
)
def test_says_what_is_wrong_with_a_line(line: str, zone: str, words: str):
    problem = cron_problem(line, zone)
    assert words in problem
    assert bool(problem) == bool(words)

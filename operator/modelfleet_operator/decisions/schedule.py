"""Which of spec.scaling.schedules is in force: times of day and week at which more is kept."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

MINUTE = 60  # seconds: the finest that cron knows


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """From a moment of `start` to the next of `end`, both cron lines in the time zone."""

    start: str
    end: str
    time_zone: str = "UTC"
    min_replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """What schedules ask for now."""

    min_replicas: int = 0
    words: str = ""  # of the one that asks for most; empty: none does
    changes_at: float = math.inf  # when another one may be in force, Unix seconds


def in_force(schedules: Iterable[Schedule], now: float, lead: float) -> InForce:
    """The most that any of them asks for; `lead` seconds before it begins, so that it is there.

    `0 8 * * 1-5` to `0 18 * * 1-5`, minReplicas 4, lead 60 s: on a Monday at 7:59 -> 4, at 18:00
    -> 0.
    """
    most, words, changes_at = 0, "", math.inf
    for schedule in schedules:
        start = next_moment(schedule.start, schedule.time_zone, now)
        end = next_moment(schedule.end, schedule.time_zone, now)
        is_on = end < start or start - lead <= now
        changes_at = min(changes_at, end if is_on else start - lead)
        if is_on and schedule.min_replicas > most:
            most = schedule.min_replicas
            words = f"the schedule from {schedule.start} to {schedule.end} ({schedule.time_zone})"
    return InForce(min_replicas=most, words=words, changes_at=changes_at)


def next_moment(line: str, time_zone: str, now: float) -> float:
    """Unix seconds of the next minute that a cron line names, later than this one; inf: none."""
    return _next_after(line, time_zone, int(now // MINUTE))


def cron_problem(line: str, time_zone: str) -> str:
    """What is wrong with it, for a person; empty: nothing."""
    try:
        ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return f"there is no time zone {time_zone!r} (write it as Europe/Berlin)"
    try:
        next(CronSim(line, datetime(2000, 1, 1, tzinfo=ZoneInfo(time_zone))))
    except CronSimError as error:
        return f"{line!r} is no cron line of five fields (0 8 * * 1-5): {error}"
    except StopIteration:
        return f"{line!r} names no day that exists"
    return ""


@lru_cache(maxsize=4096)
def _next_after(line: str, time_zone: str, minute: int) -> float:
    """Once a minute for each line: it takes far longer than all other decisions."""
    zone = ZoneInfo(time_zone)
    moment = next(CronSim(line, datetime.fromtimestamp(minute * MINUTE, zone)), None)
    return math.inf if moment is None else moment.timestamp()

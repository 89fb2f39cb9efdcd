"""When a batch runs: on idle capacity, or at once where its window asks for it."""

from __future__ import annotations

import enum
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

WINDOW: Final = re.compile(r"([1-9][0-9]{0,4})([mhd])", re.ASCII)
SECONDS: Final = {"m": 60, "h": 3600, "d": 86_400}
SHORTEST: Final = 60  # seconds
LONGEST: Final = 14 * 86_400
START: Final = 600.0  # seconds that a sleeping model may take to its first token
LINE: Final = 5.0  # seconds of a line, while none has been measured
SLOTS: Final = 4  # of a model whose workers were never seen
MARGIN: Final = 2.0  # an estimate may be wrong by so much, and the batch be in time


class Pace(enum.Enum):
    """How a batch runs now."""

    WAIT = "wait"  # its model sleeps, and there is time
    IDLE = "idle"  # on slots that no one else wants
    URGENT = "urgent"  # as other requests: it may wake the model, and add workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is left of a batch at `now` (Unix seconds), and what its model has for it."""

    now: float
    expires_at: float
    lines: int  # that have no result yet
    seconds_per_line: float = 0.0  # as measured; 0: not yet
    slots: int = 0  # of the model's workers, now or when they were last seen; 0: never
    ready_workers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceDecision:
    """The pace, and why, for a person."""

    pace: Pace
    reason: str


def decide_pace(work: Work) -> PaceDecision:
    """Waits for a sleeping model to be woken by others, as long as the window allows it.

    100 lines of 5 s on 4 slots take 125 s; twice that, and 600 s for a start: the model is woken
    850 s before the end of the window.
    """
    each = work.seconds_per_line or LINE
    seconds = math.ceil(work.lines / (work.slots or SLOTS)) * each * MARGIN
    left = work.expires_at - work.now
    if work.ready_workers:
        if left <= seconds:
            return PaceDecision(
                pace=Pace.URGENT,
                reason=f"{work.lines} lines may take the {_time(left)} left of the window: "
                "they run as other requests do",
            )
        return PaceDecision(pace=Pace.IDLE, reason="runs on idle slots of its model")
    if left <= seconds + START:
        return PaceDecision(
            pace=Pace.URGENT,
            reason=f"wakes its model: a start and {work.lines} lines may take the {_time(left)} "
            "left of the window",
        )
    latest = datetime.fromtimestamp(work.expires_at - seconds - START, UTC)
    return PaceDecision(
        pace=Pace.WAIT,
        reason="its model sleeps: waits until another request wakes it, and wakes it at "
        f"{latest:%Y-%m-%d %H:%M} UTC at the latest",
    )


def lines_allowed(
    pace: Pace, *, slots: int, free: int, waiting: int, running: int, batches: int
) -> int:
    """How many lines a batch may have in work now.

    `slots`, `free`: of the model's ready workers. `waiting`: requests in its queue that are no
    lines of batches. `running`: this batch's lines. `batches`: those of this model that run here.

    On idle slots a quarter stays free, so that other requests find one at once: of 8 slots with
    2 in use by others, two batches have 2 lines each.
    """
    if pace is Pace.WAIT:
        return 0
    if pace is Pace.URGENT:
        return max((slots or SLOTS) // batches, 1)
    if waiting:
        return 0
    reserve = 0 if slots == 1 else math.ceil(slots / 4)
    room = max(free - reserve, 0)
    return running + math.ceil(room / batches)


def read_window(text: str) -> int | None:
    """Seconds: "24h" -> 86400; None: it is no window, or too short or long a one."""
    match = WINDOW.fullmatch(text)
    if match is None:
        return None
    seconds = int(match[1]) * SECONDS[match[2]]
    return seconds if SHORTEST <= seconds <= LONGEST else None


def _time(seconds: float) -> str:
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{max(seconds, 0):.0f} s"

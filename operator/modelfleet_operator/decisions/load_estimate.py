"""How far a worker that loads is, and when it will be ready: by what the last load took."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

# From the worker's creation to its being ready. A download is none of them: what it takes says
# nothing about the next load, which finds the files in the cache.
PHASES: Final = ("Starting", "Imports", "Weights", "Cache", "Warmup")
DOWNLOAD: Final = "Download"
SLACK: Final = 0.1  # of the time that a phase took so far: what is left at least, until it ends
# Where nothing was learned yet: the percent that each of the first two phases gets, the seconds
# that they usually take, and the percent that workers say when they are over.
_FIRST: Final = 25.0
_USUAL: Final = {"Starting": 4.0, "Imports": 4.0}
_SAID_AFTER_IMPORTS: Final = 30.0

PhaseStart = tuple[str, float]  # a phase and when it began, Unix seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadEstimate:
    """`percent` never falls within one load; `eta` is Unix seconds, 0: not known."""

    percent: int
    eta: float


def note_phase(phases: tuple[PhaseStart, ...], phase: str, now: float) -> tuple[PhaseStart, ...]:
    """The phases so far and the current one: (Starting, 1000), now Weights at 1004 -> both."""
    return phases if phases and phases[-1][0] == phase else (*phases, (phase, now))


def learn_phases(phases: tuple[PhaseStart, ...], ready_at: float) -> dict[str, float]:
    """Seconds of each phase of a load that is done; a download is left out.

    (Starting, 1000), (Weights, 1004), ready at 1010 -> Starting 4, Weights 6.
    """
    ends = [since for _, since in phases[1:]] + [ready_at]
    seconds: dict[str, float] = {}
    for (phase, since), end in zip(phases, ends, strict=True):
        if phase in PHASES:
            seconds[phase] = round(seconds.get(phase, 0.0) + max(end - since, 0.0), 2)
    return seconds


def estimate_load(
    phases: tuple[PhaseStart, ...],
    learned: Mapping[str, float],
    now: float,
    *,
    said_percent: float = 0.0,
    said_eta: float = 0.0,
) -> LoadEstimate:
    """By the seconds that each phase took in the last load; else by what the worker says.

    A phase that takes longer than the last time has a tenth of its time left, so that the ETA does
    not come to nothing: learned Starting 4, Weights 6; Weights began 3 s ago -> 70 %, 3 s left; 12
    s ago -> 96 %, 1 or 2 s left.
    """
    phase, since = phases[-1]
    elapsed = max(now - since, 0.0)
    said_eta = said_eta if said_eta > now else 0.0
    total = sum(learned.get(name, 0.0) for name in PHASES)
    is_learned = total > 0 and phase in PHASES
    eta, percent = said_eta, _by_words(phase, elapsed, said_percent)
    if is_learned:
        place = PHASES.index(phase)
        expected = learned.get(phase, 0.0)
        later = sum(learned.get(name, 0.0) for name in PHASES[place + 1 :])
        eta = _phase_end(expected, since, now) + later
        done = sum(learned.get(name, 0.0) for name in PHASES[:place])
        percent = 100 * (done + expected * _share(expected, elapsed)) / total
    if any(name == DOWNLOAD for name, _ in phases):
        before = 100 * learned.get("Starting", 0.0) / total if total > 0 else _FIRST
        percent = before + (100 - before) * said_percent / 100
    return LoadEstimate(percent=int(min(max(percent, 0.0), 99.0)), eta=eta)


def _by_words(phase: str, elapsed: float, said: float) -> float:
    """Of a first load: the worker says nothing before its imports are over."""
    if phase in _USUAL:
        before = 0.0 if phase == "Starting" else _FIRST
        return before + _FIRST * elapsed / (elapsed + _USUAL[phase])
    after = max(said - _SAID_AFTER_IMPORTS, 0.0) / (100 - _SAID_AFTER_IMPORTS)
    return 2 * _FIRST + (100 - 2 * _FIRST) * after


def _phase_end(expected: float, since: float, now: float) -> float:
    """Changes seldom: gateways hear of each new ETA, and what they say then is looked at."""
    left = SLACK * max(now - since, 0.0)
    if since + expected >= now + left:
        return since + expected
    step = 2.0 ** math.floor(math.log2(max(left, 1.0)))
    return math.ceil((now + left) / step) * step


def _share(expected: float, elapsed: float) -> float:
    """Of a phase: even until nearly its end, then ever slower, so that it never comes to 1."""
    if expected <= 0:
        return 0.0
    left = max(expected - elapsed, SLACK * math.sqrt(expected * elapsed))
    return elapsed / (elapsed + left)

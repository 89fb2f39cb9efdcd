"""The numbers of a simulation: attainment, percentiles, hours and money."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from modelfleet_process.calibration import Calibration

from .outcome import DONE, OUTCOMES, TOO_LONG, History
from .simulation import Outcome
from .trace import Trace


@dataclass(frozen=True, slots=True)
class Slo:
    """What a request must get; seconds."""

    ttft: float
    tpot: float

    def is_kept(self, ttft: float, tpot: float) -> bool:
        """NaN: it never had a first token, or only one token."""
        return ttft <= self.ttft and not tpot > self.tpot


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Of seconds; NaN: there were none."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Percentiles:
        """NaN among the values is left out."""
        ordered = sorted(value for value in values if value == value)
        return cls(p50=_at(ordered, 0.5), p95=_at(ordered, 0.95), p99=_at(ordered, 0.99))


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One simulation in numbers."""

    requests: int
    outcomes: dict[str, int]
    attainment: float  # share of requests that kept the SLO; refused ones did not
    ttft: Percentiles
    tpot: Percentiles
    wait: Percentiles  # in the gateway's queue
    oldest_wait: float
    met_cold: int
    hours: dict[str, float]  # replica-hours by use
    cost: float | None  # money; None: no price is known
    costs: dict[str, float]  # the same by what it was paid for; empty: no price is known
    standby_hours: float
    hits: int
    misses: int
    seconds_saved: float
    mean_replicas: float
    most_replicas: int
    actions_per_hour: float
    decided_by: dict[str, float]  # share of the time
    changes_by: dict[str, int]
    interrupted: int
    moved: int
    rerun: int
    plans: int

    @property
    def replica_hours(self) -> float:
        """What is paid for."""
        return sum(self.hours.values())


def summarize(trace: Trace, outcome: Outcome, slo: Slo, *, has_price: bool) -> Summary:
    """Attainment is counted by arrival: a refusal is a miss (../shared traces' scoring).

    Requests that no worker could ever take (too long) are named, and are no misses.
    """
    requests, history = outcome.requests, outcome.history
    arrivals, answers = trace.arrivals, trace.answers
    kept = 0
    ttft, tpot, waits = array("d"), array("d"), array("d")
    for place, at in enumerate(arrivals):
        first, answer = requests.first[place], answers[place]
        took = first - at
        each = (requests.last[place] - first) / (answer - 1) if answer > 1 else math.nan
        ttft.append(took)
        tpot.append(each)
        taken = requests.taken[place]
        if taken == taken:
            waits.append(taken - at)
        kept += requests.state[place] == DONE and slo.is_kept(took, each)
    counted = len(trace) - requests.state.count(TOO_LONG)
    hours = _hours(history)
    span = max(history.ended, 1e-9)
    decided = sum(history.decided_by.values()) or 1.0
    return Summary(
        requests=len(trace),
        outcomes={name: n for name, code in OUTCOMES.items() if (n := requests.state.count(code))},
        attainment=kept / counted if counted else math.nan,
        ttft=Percentiles.of(ttft),
        tpot=Percentiles.of(tpot),
        wait=Percentiles.of(waits),
        oldest_wait=max(max(waits, default=0.0), history.longest_refused_wait),
        met_cold=history.met_cold,
        hours=hours,
        cost=history.cost if has_price else None,
        costs=dict(sorted(history.costs.items())),
        standby_hours=history.standby_hours,
        hits=history.hits,
        misses=history.misses,
        seconds_saved=history.seconds_saved,
        mean_replicas=sum(hours.values()) * 3600 / span,
        most_replicas=max((sample.existing for sample in history.samples), default=0),
        actions_per_hour=history.changes * 3600 / span,
        decided_by={
            part: history.decided_by[part] / decided
            for part in sorted(history.decided_by, key=lambda part: -history.decided_by[part])
        },
        changes_by=dict(history.reasons.most_common()),
        interrupted=history.interrupted,
        moved=history.moved,
        rerun=history.rerun,
        plans=history.plans,
    )


def area_bound(trace: Trace, calibration: Calibration, max_sequences: int) -> float:
    """Replica-hours that no fleet can be below: the work at the best that a worker can do.

    A token of a prompt takes its prefill time; a token of an answer a sequence's share of a step of
    the batch that is best for it.
    """
    each = min(calibration.step_time(n, 0) / n for n in range(1, max_sequences + 1))
    prefill = sum(trace.prompts) * calibration.prefill_token_seconds
    return (prefill + (sum(trace.answers) - len(trace)) * each) / 3600


def as_json(summary: Summary) -> dict[str, Any]:
    """JSON types; what is not known is null."""
    return {
        "requests": summary.requests,
        "outcomes": summary.outcomes,
        "attainment": _number(summary.attainment),
        "ttftSeconds": _percentiles(summary.ttft),
        "tpotSeconds": _percentiles(summary.tpot),
        "waitSeconds": {**_percentiles(summary.wait), "oldest": _number(summary.oldest_wait)},
        "metColdFleet": summary.met_cold,
        "replicaHours": {use: _number(h) for use, h in summary.hours.items()}
        | {"total": _number(summary.replica_hours)},
        "cost": None if summary.cost is None else _number(summary.cost),
        "replicas": {"mean": _number(summary.mean_replicas), "most": summary.most_replicas},
        "actionsPerHour": _number(summary.actions_per_hour),
        "decidedBy": {part: _number(share) for part, share in summary.decided_by.items()},
        "changesBy": summary.changes_by,
        "costs": {what: _number(money) for what, money in summary.costs.items()},
        "pool": {
            "standbyHours": _number(summary.standby_hours),
            "hits": summary.hits,
            "misses": summary.misses,
            "secondsSaved": _number(summary.seconds_saved),
        },
        "spot": {
            "interruptions": summary.interrupted,
            "streamsMoved": summary.moved,
            "streamsRerun": summary.rerun,
        },
    }


def _percentiles(of: Percentiles) -> dict[str, float | None]:
    return {"p50": _number(of.p50), "p95": _number(of.p95), "p99": _number(of.p99)}


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _hours(history: History) -> dict[str, float]:
    bill = history.bill
    return {
        "serving": bill.serving / 3600,
        "idle": bill.idle / 3600,
        "cold": bill.cold / 3600,
        "draining": bill.draining / 3600,
    }


def _at(ordered: Sequence[float], share: float) -> float:
    """The nearest rank."""
    if not ordered:
        return math.nan
    return ordered[min(max(math.ceil(share * len(ordered)) - 1, 0), len(ordered) - 1)]

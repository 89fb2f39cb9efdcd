"""What the autoscaler learned of one deployment: its demand, and how fast its workers are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from types import MappingProxyType
from typing import Any, Self

from .demand import ERRORS, Demand
from .latency import MOST, Fleet, Judged, Latency
from .worker_speed import (
    Targets,
    Work,
    WorkerLimits,
    WorkerSpeed,
    dump_speed,
    load_speed,
    shortened,
)

SAMPLE = 2.0  # seconds between two looks at the counters
LEARN = 10.0  # seconds between two looks at what the learned speed allows
KEEP = 60.0  # seconds between two versions of what is kept over a restart
TOLD_WITHIN = 0.1  # of what gateways were told, within which they are told nothing new
LONGEST_GAP = 30.0  # seconds between two samples of a worker, beyond which they tell nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Counters of everything that speaks, by its name."""

    requests: Mapping[str, int]  # that came, by gateway
    judged: Mapping[str, Judged]  # by gateway
    works: Mapping[str, Work]  # by worker


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingMemory:
    """Bounded: some 2 kB as JSON, and it changes at most once a minute, not at all when idle."""

    demand: Demand = field(default_factory=Demand)
    speed: WorkerSpeed = field(default_factory=WorkerSpeed)
    limits: WorkerLimits | None = None  # by the speed; None: not known yet
    limits_at: float = 0.0
    latency: Latency = field(default_factory=Latency)
    told: int = 0  # requests in flight of one worker, as gateways are told; it changes seldom
    sampled_at: float = 0.0
    counts: Counts | None = None  # of the latest sample; not kept
    kept: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    kept_at: float = 0.0

    def is_due(self, now: float) -> bool:
        """Whether `take` would look at the counters."""
        return not 0 <= now - self.sampled_at < SAMPLE

    def take(
        self, now: float, counts: Counts, fleet: Fleet, horizon: float, targets: Targets
    ) -> Self:
        """Learns from what was counted since the last sample.

        A gateway or worker that is new, or began anew, is counted from here on.
        """
        if not self.is_due(now):
            return self
        before = self.counts
        if before is None:
            demand = self.demand.take(now, 0.0, horizon)
            return replace(self, demand=demand, counts=counts, sampled_at=now)
        came = sum(
            max(count - before.requests.get(gateway, count), 0)
            for gateway, count in counts.requests.items()
        )
        latency = self.latency
        if targets.ttft or targets.tpot:
            judged = [
                said.since(before.judged[name])
                for name, said in counts.judged.items()
                if name in before.judged
            ]
            latency = latency.take(now, reduce(Judged.plus, judged, Judged()), fleet, horizon)
        speed = self.speed
        if 0 < now - self.sampled_at <= LONGEST_GAP:
            speed = speed.learn(work_between(before.works, counts.works))
        limits = self.limits
        service = limits.in_flight / limits.rate if limits else 0.0
        demand = self.demand.take(now, came, horizon, service)
        limits_at, kept, kept_at = self.limits_at, self.kept, self.kept_at
        if speed is not self.speed and not 0 <= now - limits_at < LEARN:
            limits, limits_at = speed.limits(targets) or limits, now
        told = self.told
        if limits and abs(limits.in_flight - told) > TOLD_WITHIN * told:
            told = round(limits.in_flight)
        if (came or speed is not self.speed) and not 0 <= now - kept_at < KEEP:
            kept, kept_at = _dump(demand, speed, limits, latency), now
        return replace(
            self,
            demand=demand,
            speed=speed,
            limits=limits,
            limits_at=limits_at,
            latency=latency,
            told=told,
            sampled_at=now,
            counts=counts,
            kept=kept,
            kept_at=kept_at,
        )

    def dump(self) -> dict[str, Any]:
        """JSON types: as of the last full minute with requests."""
        return dict(self.kept)

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> Self:
        """Reads what `dump` wrote; what is missing or no number is not known."""
        try:
            return cls._load(dumped)
        except (TypeError, ValueError, KeyError):
            return cls()

    @classmethod
    def _load(cls, dumped: Mapping[str, Any]) -> Self:
        if not dumped:
            return cls()
        in_flight, rate = (float(number) for number in dumped["limits"] or (0.0, 0.0))
        return cls(
            demand=Demand(
                errors=tuple(max(float(error), 0.0) for error in dumped["errors"])[-ERRORS:],
                error_at=float(dumped.get("error_at", 0.0)),
                busy=tuple((float(at), float(most)) for at, most in dumped.get("busy", ())),
                noise=float(dumped.get("noise", 0.0)),
                load=float(dumped.get("load", 0.0)),
            ),
            speed=load_speed(dumped),
            limits=WorkerLimits(in_flight=in_flight, rate=rate) if rate > 0 else None,
            latency=Latency(strain=min(max(float(dumped.get("strain", 1.0)), 1.0), MOST)),
            told=round(in_flight) if rate > 0 else 0,
            kept=dict(dumped),
        )


def work_between(before: Mapping[str, Work], after: Mapping[str, Work]) -> Work:
    """What those workers did that were there before, all together."""
    busy, steps, prompts, answers, finished, squares = 0.0, 0, 0, 0, 0, 0.0
    for name, work in after.items():
        was = before.get(name)
        if was is None or work.steps < was.steps or work.busy_seconds < was.busy_seconds:
            continue
        busy += work.busy_seconds - was.busy_seconds
        steps += work.steps - was.steps
        prompts += max(work.prompt_tokens - was.prompt_tokens, 0)
        answers += max(work.completion_tokens - was.completion_tokens, 0)
        finished += max(work.finished - was.finished, 0)
        squares += max(work.prompt_squares - was.prompt_squares, 0.0)
    return Work(busy, steps, prompts, answers, finished, squares)


def _dump(
    demand: Demand, speed: WorkerSpeed, limits: WorkerLimits | None, latency: Latency
) -> dict[str, Any]:
    return {
        "errors": list(demand.errors),
        "error_at": round(demand.error_at),
        "busy": [[round(at), shortened(most)] for at, most in demand.busy],
        "noise": shortened(demand.noise),
        "load": shortened(demand.load),
        **dump_speed(speed),
        "strain": shortened(latency.strain),
        "limits": [shortened(limits.in_flight), shortened(limits.rate)] if limits else None,
    }

"""How many tokens a worker of each accelerator class generates: measured there, or estimated.

What one class measured tells of the others, too: the bytes of the weights pass through a memory of
so much bandwidth in each step. So a class where no worker ran yet takes as many times as long as
its bandwidth is lower; and while no class is measured, a step takes what reading the weights takes.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Self

from .model_memory import ModelNeeds
from .observed import Accelerator, Worker, WorkerStats
from .scaling_memory import KEEP, LONGEST_GAP, SAMPLE, work_between
from .worker_speed import Targets, Work, WorkerSpeed, dump_speed, load_speed, step_seconds

MOST_CLASSES = 8  # as spec.placement.accelerators has


class Basis(enum.StrEnum):
    """What a throughput was found by."""

    MEASURED = "Measured"
    ESTIMATED = "Estimated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Of one worker."""

    tokens: float  # that it generates a second, within the targets
    step: float  # seconds of a step with a single request
    keeps_targets: bool
    basis: Basis


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSpeeds:
    """What workers of one model measured, by class: some 0.7 kB each as JSON, eight at most."""

    speeds: Mapping[str, WorkerSpeed] = field(default_factory=lambda: MappingProxyType({}))
    shown: Mapping[str, WorkerSpeed] = field(default_factory=lambda: MappingProxyType({}))
    """As of the last full minute with requests: decisions go by these, so that they are calm."""
    shown_at: float = 0.0
    sampled_at: float = 0.0
    works: Mapping[str, Work] | None = None  # of the latest sample, by worker; not kept

    def take(
        self,
        now: float,
        workers: Iterable[Worker],
        stats: Mapping[str, WorkerStats],
        classes: tuple[str, ...],
    ) -> Self:
        """Learns from what was counted since the last sample; classes not asked for go."""
        if 0 <= now - self.sampled_at < SAMPLE:
            return self
        on: dict[str, list[str]] = {}
        for worker in workers:
            if worker.accelerator in classes and worker.id in stats:
                on.setdefault(worker.accelerator, []).append(worker.id)
        works = {id_: stats[id_].work for ids in on.values() for id_ in ids}
        before = self.works
        if before is None or not 0 < now - self.sampled_at <= LONGEST_GAP:
            return replace(self, works=works, sampled_at=now)
        speeds, is_new = {n: s for n, s in self.speeds.items() if n in classes}, False
        for name, ids in on.items():
            was = speeds.get(name, WorkerSpeed())
            did = work_between(before, {id_: works[id_] for id_ in ids})
            if (learned := was.learn(did)) is not was:
                speeds[name], is_new = learned, True
        shown, shown_at = self.shown, self.shown_at
        if is_new and not 0 <= now - shown_at < KEEP:
            shown, shown_at = speeds, now
        return replace(
            self, speeds=speeds, shown=shown, shown_at=shown_at, works=works, sampled_at=now
        )

    def dump(self) -> dict[str, Any]:
        """JSON types: as shown."""
        return {name: dump_speed(speed) for name, speed in self.shown.items()}

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> Self:
        """Reads what `dump` wrote; a class whose numbers cannot be read is not measured."""
        speeds = {}
        for name, entry in list(dumped.items())[:MOST_CLASSES]:
            try:
                speeds[name] = load_speed(entry)
            except (TypeError, ValueError, KeyError):
                continue
        return cls(speeds=speeds, shown=speeds)


def throughputs(
    names: Iterable[str],
    classes: Mapping[str, Accelerator],
    speeds: Mapping[str, WorkerSpeed],
    needs: ModelNeeds,
    targets: Targets,
) -> dict[str, Throughput]:
    """Of each class of which it can be said; without a target as fast as it gets.

    h100 measured 1,000 tokens a second at 3.35 TB/s; l4 has 0.3 TB/s and was never tried -> 1,000
    measured and 90 estimated. Nothing measured, 16 GB of weights, 64 requests at once -> 13,400
    and 1,200, both estimated.
    """
    names = tuple(names)
    measured = {n: s for n in names if (s := speeds.get(n)) and s.limits(targets) is not None}
    reference = _reference(measured, classes)
    found = {}
    for name in names:
        bandwidth = classes[name].bandwidth
        if name in measured:
            speed = _at_equal_load(measured[name], measured[reference]) if reference else None
            found[name] = _of(speed or measured[name], targets, Basis.MEASURED)
        elif reference and bandwidth and classes[reference].bandwidth:
            factor = classes[reference].bandwidth / bandwidth
            found[name] = _of(measured[reference].scaled(factor), targets, Basis.ESTIMATED)
        elif bandwidth and needs.weights and not measured:
            step = needs.weights / bandwidth
            keeps = not targets.tpot or step <= targets.tpot
            found[name] = Throughput(
                tokens=targets.most / step, step=step, keeps_targets=keeps, basis=Basis.ESTIMATED
            )
    return found


def _of(speed: WorkerSpeed, targets: Targets, basis: Basis) -> Throughput:
    limits = speed.limits(targets)
    n, _, answers, _ = speed.lengths
    return Throughput(
        tokens=limits.rate * max(answers / n, 1.0) if limits else 0.0,
        step=step_seconds(speed.step_curve(), 1.0),
        keeps_targets=speed.keeps(targets),
        basis=basis,
    )


def _reference(measured: Mapping[str, WorkerSpeed], classes: Mapping[str, Accelerator]) -> str:
    """The class whose curve the others are compared by: seen under the most load; empty: none.

    One that says its bandwidth comes first, since others can be estimated by it.
    """
    return max(
        measured,
        key=lambda name: (classes[name].bandwidth > 0, _most_decodes(measured[name]), name),
        default="",
    )


def _at_equal_load(speed: WorkerSpeed, reference: WorkerSpeed) -> WorkerSpeed:
    """As it would be at the load that the reference was seen at.

    A class that was seen with few requests only seems slow, since beyond what was seen a step takes
    longer in proportion. So there it is as many times as slow as where both were seen.
    """
    own, other = _most_decodes(speed), _most_decodes(reference)
    if own * 2 > other:
        return speed
    factor = step_seconds(speed.step_curve(), own) / step_seconds(reference.step_curve(), own)
    return reference.scaled(factor)


def _most_decodes(speed: WorkerSpeed) -> float:
    return max((count for count, _ in speed.step_curve()), default=0.0)

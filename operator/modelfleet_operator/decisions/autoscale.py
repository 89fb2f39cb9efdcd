"""How many replicas: sized by queue depth, asleep when idle, never changed on silence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

BUCKET = 10.0  # seconds at most; peaks in buckets change rarely, so they are cheap to keep

Peaks = tuple[tuple[float, int], ...]  # (start of a bucket, most replicas wanted in it)
NOTHING_WANTED: Peaks = ((0.0, 0),)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPolicy:
    """`spec.scaling`; durations in seconds."""

    mode: Literal["Auto", "External"] = "Auto"
    min_replicas: int = 1
    max_replicas: int = 1
    replicas: int | None = None  # obeyed in mode External; None: min_replicas
    target_queue_depth: int = 16  # requests waiting and running, per replica
    idle_timeout: float = 300.0
    scale_down_delay: float = 300.0

    @property
    def is_woken_by_requests(self) -> bool:
        """Whether a waiting request brings the first worker, by us or by what writes `replicas`.

        In mode External, minReplicas 0 says so: KEDA reads the queue and raises the count. Without
        it 0 is what a person decided, and a request would wait in vain.
        """
        return self.mode == "Auto" or self.min_replicas == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What was observed at `now` (Unix seconds; it may step back)."""

    now: float
    complete: bool  # every gateway spoke; False: the rest may be too low
    waiting: int
    running: int
    replicas: int  # the count in force; starting ones too: they are already paid for
    last_active: float  # when a request was last there, or the first replica became ready


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingDecision:
    """How many, and why; `peaks` go back in with the next call."""

    replicas: int
    reason: str  # shown in status.scalingHistory, so it is written for a person
    peaks: Peaks
    decided_by: str  # the part of the policy that set the count, in a word or two
    wake_at: float | None = None  # when time alone may change the answer, Unix seconds


def decide_replicas(policy: ScalingPolicy, load: Load, peaks: Peaks = ()) -> ScalingDecision:
    """Grows at once, shrinks to the peak of the last `scale_down_delay`, sleeps when idle.

    The idle timeout outranks the delay: a model without any request for that long sleeps even if a
    peak is more recent than the delay.

    Target queue depth 8, 3 replicas, 9 requests, peaks ((980, 3),), `scale_down_delay` 30 s, now
    1000 -> 3 replicas (2 are needed, 3 at the recent peak); now 1010 -> 2.
    """
    if policy.mode == "External":
        replicas = policy.min_replicas if policy.replicas is None else policy.replicas
        return ScalingDecision(
            replicas=replicas,
            reason="set by spec.scaling.replicas",
            peaks=(),
            decided_by="spec.scaling.replicas",
        )

    depth = load.waiting + load.running
    wanted = math.ceil(depth / policy.target_queue_depth)
    if not load.complete and wanted <= load.replicas:
        # What is missing could only ask for more, and silence is not zero load.
        replicas, note = _bounded(policy, load.replicas)
        reason = note.removeprefix("; ") or "kept: not every gateway reports"
        return ScalingDecision(
            replicas=replicas, reason=reason, peaks=peaks, decided_by="silence of a gateway"
        )

    # Without memory the count in force is the peak: it was there for a reason.
    most = wanted if peaks else max(wanted, load.replicas)
    recent = _remember(peaks, load.now, most, policy.scale_down_delay)
    peak = max(n for _, n in recent)
    idle = load.now - load.last_active
    wake_at = None
    if wanted >= load.replicas:
        replicas, reason, part = wanted, _demand(load, wanted), "queue depth"
    elif depth == 0 and policy.min_replicas == 0 and idle >= policy.idle_timeout:
        replicas, reason, recent = 0, f"idle for {policy.idle_timeout:g} s", ()
        part = "idle timeout"
    else:
        floor = 1 if policy.min_replicas == 0 else policy.min_replicas
        replicas = min(max(wanted, peak, floor), load.replicas)
        reason = f"{_demand(load, wanted)}, {peak} at the recent peak"
        part = "recent peak" if peak > wanted else "queue depth"
        if floor > max(wanted, peak):
            part = "kept until the idle timeout" if policy.min_replicas == 0 else "minReplicas"
        wake_at = _next_wake(policy, load, recent, replicas)
    bounded, note = _bounded(policy, replicas)
    if bounded != replicas:
        part = "minReplicas" if bounded > replicas else "maxReplicas"
    return ScalingDecision(
        replicas=bounded, reason=reason + note, peaks=recent, decided_by=part, wake_at=wake_at
    )


def _remember(peaks: Peaks, now: float, wanted: int, delay: float) -> Peaks:
    size = min(BUCKET, delay / 10) or BUCKET
    bucket = now // size * size
    if peaks and peaks[-1][0] == bucket and wanted <= peaks[-1][1] and now - peaks[0][0] < delay:
        return peaks  # nothing new, and nothing is too old: the usual case
    recent = {t: n for t, n in peaks if n and t <= now and now - t < delay}
    if wanted:
        recent[bucket] = max(wanted, recent.get(bucket, 0))
    # Never empty, which would mean no memory; and the same for as long as nothing is wanted, since
    # each change of it is written to the cluster.
    return tuple(sorted(recent.items())) or NOTHING_WANTED


def _demand(load: Load, wanted: int) -> str:
    return (
        f"{load.waiting} waiting and {load.running} running need "
        f"{wanted} replica{'' if wanted == 1 else 's'}"
    )


def _bounded(policy: ScalingPolicy, replicas: int) -> tuple[int, str]:
    bounded = min(max(replicas, policy.min_replicas), policy.max_replicas)
    if bounded == replicas:
        return bounded, ""
    bound = "minReplicas" if bounded > replicas else "maxReplicas"
    return bounded, f"; {bound} is {bounded}"


def _next_wake(policy: ScalingPolicy, load: Load, recent: Peaks, replicas: int) -> float | None:
    """When a peak leaves the window or the idle timeout is over."""
    times = []
    if replicas > max(policy.min_replicas, 1):
        times += [t + policy.scale_down_delay for t, n in recent if n]
    if load.waiting + load.running == 0 and policy.min_replicas == 0 and replicas:
        times.append(load.last_active + policy.idle_timeout)
    return min((max(t, load.now) for t in times), default=None)

"""How many replicas: sized by what comes and what is there, asleep when idle, kept on silence."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Literal

from .scaling_memory import ScalingMemory
from .schedule import Schedule, in_force
from .worker_speed import Targets

BUCKET = 10.0  # seconds at most; peaks in buckets change rarely, so they are cheap to keep
FIRST_IN_FLIGHT = 16.0  # requests of one replica, until more is known
DEFAULT_QUEUE_DEPTH = 16  # requests of one replica, where neither it nor a latency is asked for
DEFAULT_DELAY = 300.0  # seconds, beside a queue depth
USUAL_COLD_START = 30.0  # seconds, until one was measured
SHARE = 0.7  # of the requests in flight that a replica takes, so that what waits is done soon
DEVIATIONS = 2.0  # of the busy seconds, that are kept in hand
SHORT_CLAIM = 0.5  # of a start: a claim that takes longer spares nothing
SLACK = 0.1  # of a replica, that is not worth another one

Peaks = tuple[tuple[float, int], ...]  # (start of a bucket, most replicas wanted in it)
NOTHING_LEARNED = ScalingMemory()
NOTHING_WANTED: Peaks = ((0.0, 0),)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPolicy:
    """`spec.scaling`; durations in seconds."""

    mode: Literal["Auto", "External"] = "Auto"
    min_replicas: int = 1
    max_replicas: int = 1
    replicas: int | None = None  # obeyed in mode External; None: min_replicas
    target_queue_depth: int | None = (
        None  # requests waiting and running, per replica; None: learned
    )
    idle_timeout: float = 300.0
    scale_down_delay: float | None = None  # None: by the cold start
    targets: Targets = field(default_factory=Targets)
    schedules: tuple[Schedule, ...] = ()
    max_hourly_cost: Decimal | None = None  # of all workers together

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
    cold_start: float = 0.0  # seconds from a decision to a ready replica; 0: not known
    claim: float = 0.0  # the same where it is a claim of a standby; 0: not known
    standbys: int = 0  # that a warm pool has for it, those that are on their way too
    affordable: int | None = None  # replicas within maxHourlyCost; None: no limit


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingDecision:
    """How many, and why; `peaks` go back in with the next call."""

    replicas: int
    reason: str  # shown in status.scalingHistory, so it is written for a person
    peaks: Peaks
    decided_by: str  # the part of the policy that set the count, in a word or two
    wished: int = 0  # without maxHourlyCost
    wake_at: float | None = None  # when time alone may change the answer, Unix seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Caution:
    """How much is kept in hand, by how long a start takes."""

    quantile: float  # of the errors of past forecasts that the margin covers
    hold: float  # seconds for which a peak counts


def caution(cold_start: float) -> Caution:
    """A short start can wait and see; before a long one what may come again is kept.

    A start of 8 s -> 90 % of the errors, peaks count for 96 s; of 60 s -> 96.3 %, 138 s; of 5 min
    -> 98.4 %, 330 s. What the errors do not cover falls with the root of the start: each costs as
    many late requests as come within a start.
    """
    start = cold_start or USUAL_COLD_START
    return Caution(
        quantile=1 - 0.1 * min(math.sqrt(8 / start), 1.0),
        hold=90 + 0.8 * start,
    )


def decide_replicas(
    policy: ScalingPolicy,
    load: Load,
    peaks: Peaks = (),
    learned: ScalingMemory = NOTHING_LEARNED,
) -> ScalingDecision:
    """Grows at once, shrinks to the peak of the hold, sleeps when idle.

    The idle timeout outranks the hold: a model without any request for that long sleeps even if a
    peak is more recent.

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
            wished=replicas,
        )
    scheduled = in_force(policy.schedules, load.now, load.cold_start)
    if scheduled.min_replicas > policy.min_replicas:
        raised = replace(policy, min_replicas=scheduled.min_replicas)
        decision = _decide(raised, load, peaks, learned)
        if decision.decided_by == "minReplicas":
            decision = replace(
                decision, decided_by="schedule", reason=f"{decision.reason} by {scheduled.words}"
            )
    else:
        decision = _decide(policy, load, peaks, learned)
    if scheduled.changes_at < math.inf:
        times = (decision.wake_at, max(scheduled.changes_at, load.now))
        decision = replace(decision, wake_at=min(t for t in times if t is not None))
    return _within_budget(policy, load, decision)


def _within_budget(policy: ScalingPolicy, load: Load, decision: ScalingDecision) -> ScalingDecision:
    """Growth stops where maxHourlyCost is reached; what is there stays, and so does the minimum."""
    decision = replace(decision, wished=decision.replicas)
    if load.affordable is None:
        return decision
    most = max(load.affordable, load.replicas, policy.min_replicas)
    if decision.replicas <= most:
        return decision
    return replace(
        decision,
        replicas=most,
        reason=f"{decision.reason}; maxHourlyCost allows {max(load.affordable, 0)}",
        decided_by="maxHourlyCost",
    )


def _decide(
    policy: ScalingPolicy, load: Load, peaks: Peaks, learned: ScalingMemory
) -> ScalingDecision:
    """By load alone, within the bounds."""
    depth = load.waiting + load.running
    wanted, part, demand, delay = _wanted(policy, load, learned)
    if not load.complete and wanted <= load.replicas:
        # What is missing could only ask for more, and silence is not zero load.
        replicas, note = _bounded(policy, load.replicas)
        reason = note.removeprefix("; ") or "kept: not every gateway reports"
        return ScalingDecision(
            replicas=replicas, reason=reason, peaks=peaks, decided_by="silence of a gateway"
        )

    # Without memory the count in force is the peak: it was there for a reason.
    most = wanted if peaks else max(wanted, load.replicas)
    recent = _remember(peaks, load.now, most, delay)
    peak = max(n for _, n in recent)
    idle = load.now - load.last_active
    wake_at = None
    may_sleep = depth == 0 and policy.min_replicas == 0 and idle >= policy.idle_timeout
    if may_sleep and wanted < load.replicas:
        replicas, reason, recent = 0, f"idle for {policy.idle_timeout:g} s", ()
        part = "idle timeout"
    elif wanted >= load.replicas:
        replicas, reason = wanted, demand
    else:
        floor = 1 if policy.min_replicas == 0 else policy.min_replicas
        replicas = min(max(wanted, peak, floor), load.replicas)
        reason = f"{demand}, {peak} at the recent peak"
        if peak > wanted:
            part = "recent peak"
        if floor > max(wanted, peak):
            part = "kept until the idle timeout" if policy.min_replicas == 0 else "minReplicas"
        wake_at = _next_wake(policy, load, recent, replicas, delay)
    bounded, note = _bounded(policy, replicas)
    if bounded != replicas:
        part = "minReplicas" if bounded > replicas else "maxReplicas"
    return ScalingDecision(
        replicas=bounded, reason=reason + note, peaks=recent, decided_by=part, wake_at=wake_at
    )


def _wanted(
    policy: ScalingPolicy, load: Load, learned: ScalingMemory
) -> tuple[int, str, str, float]:
    """Replicas that the load needs, the part that says so, in words, and seconds of the hold."""
    wanted, part, words, delay = _by_load(policy, load, learned)
    missed = learned.latency.asks_for(load.now)
    if missed > wanted:
        share = f"{learned.latency.share:.0%} of requests missed spec.scaling.slo"
        return missed, "missed latency", f"{share}: {_replicas(missed)}", delay
    return wanted, part, words, delay


def _by_load(
    policy: ScalingPolicy, load: Load, learned: ScalingMemory
) -> tuple[int, str, str, float]:
    """The same, without regard to latency."""
    depth = load.waiting + load.running
    target = policy.target_queue_depth
    if target is not None:
        wanted = math.ceil(depth / target)
        delay = DEFAULT_DELAY if policy.scale_down_delay is None else policy.scale_down_delay
        return wanted, "queue depth", _depth_words(load, wanted), delay
    careful = caution(load.cold_start)
    delay = max(careful.hold, policy.scale_down_delay or 0.0)
    limits = learned.limits
    if depth == 0 and (load.replicas == 0 or _is_idle(policy, load)):
        limits = None  # a sleeping fleet is woken by a request only
    strain = learned.latency.strain
    each = limits.in_flight * SHARE / strain if limits else FIRST_IN_FLIGHT
    by_depth = depth / max(each, 1.0)
    wanted = max(math.ceil(by_depth - SLACK), 1 if depth else 0)
    words = f"{_depth_words(load, wanted)} of {each:.3g} each"
    if limits is None:
        return wanted, "requests in flight", words, delay
    demand, rate = learned.demand, limits.rate / strain
    spread = DEVIATIONS * demand.deviation
    busiest = demand.busiest(load.now)
    error = min(demand.error(careful.quantile, load.now), max(busiest - demand.level, 0.0))
    margin, what = max((error, "error of the forecast"), (spread, "variance"))
    by_rate = (demand.level + margin) / rate
    if by_rate <= by_depth:
        return wanted, "requests in flight", words, delay
    needed = max(math.ceil(by_rate - SLACK), wanted)
    part = "requests a second" if needed <= math.ceil(demand.level / rate - SLACK) else what
    words = (
        f"{demand.level:.3g} requests/s, {margin:.3g} in hand for the {what}, {rate:.3g} each: "
        f"{_replicas(needed)}"
    )
    standing_by = _spared(load)
    if standing_by:
        # What a claim is too late for is not spared: the noise of the busy seconds.
        least = max(math.ceil((demand.level + spread) / rate - SLACK), wanted)
        spared = min(needed - least, standing_by)
        if spared > 0:
            return needed - spared, "standbys", f"{words}, {spared} of them stand by", delay
    return needed, part, words, delay


def _spared(load: Load) -> int:
    """How many fewer replicas are kept in hand, since standbys start soon enough: half of them.

    What was claimed takes a whole start to be replaced, and the next burst may come before that. 4
    stand by, a start takes 60 s and a claim 5 s -> 2; a claim takes 40 s -> none.
    """
    is_short = 0 < load.claim <= SHORT_CLAIM * load.cold_start
    return load.standbys // 2 if is_short else 0


def _is_idle(policy: ScalingPolicy, load: Load) -> bool:
    return load.now - load.last_active >= policy.idle_timeout


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


def _depth_words(load: Load, wanted: int) -> str:
    return f"{load.waiting} waiting and {load.running} running need {_replicas(wanted)}"


def _replicas(count: int) -> str:
    return f"{count} replica{'' if count == 1 else 's'}"


def _bounded(policy: ScalingPolicy, replicas: int) -> tuple[int, str]:
    bounded = min(max(replicas, policy.min_replicas), policy.max_replicas)
    if bounded == replicas:
        return bounded, ""
    bound = "minReplicas" if bounded > replicas else "maxReplicas"
    return bounded, f"; {bound} is {bounded}"


def _next_wake(
    policy: ScalingPolicy, load: Load, recent: Peaks, replicas: int, delay: float
) -> float | None:
    """When a peak leaves the window or the idle timeout is over."""
    times = []
    if replicas > max(policy.min_replicas, 1):
        times += [t + delay for t, n in recent if n]
    if load.waiting + load.running == 0 and policy.min_replicas == 0 and replicas:
        times.append(load.last_active + policy.idle_timeout)
    return min((max(t, load.now) for t in times), default=None)

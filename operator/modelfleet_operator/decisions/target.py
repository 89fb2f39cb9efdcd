"""How many workers are wanted: the one place where the autoscaler's answer may be raised."""

from __future__ import annotations

from dataclasses import dataclass

from .autoscale import USUAL_COLD_START, Load, Peaks, decide_replicas
from .latency import Fleet
from .memory import FAILURES_UNTIL_STALLED, Memory
from .observed import Deployment, Signals
from .scaling_memory import Counts, ScalingMemory
from .worker_groups import WorkerGroups


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """How many workers are wanted, and why. A rollout divides this number; it never changes it."""

    before: int  # wanted until now
    demand: int  # what the autoscaler wants
    demand_reason: str
    replicas: int  # wanted: `demand`, but 1 at least while a revision must prove itself
    reason: str  # for `replicas`; shown in status.scalingHistory
    decided_by: str  # the part of the policy that set `replicas`, in a word or two
    wished: int  # `demand` without spec.scaling.maxHourlyCost
    standbys: int  # that were counted on
    peaks: Peaks  # hand back to the next decision
    scaling: ScalingMemory  # this one, too
    wake_at: float | None  # when time alone may change it, Unix seconds

    @property
    def only_proves(self) -> bool:
        """Whether the one worker is wanted for nothing but to prove its revision."""
        return self.replicas > self.demand


def decide_target(
    deployment: Deployment,
    signals: Signals,
    now: float,
    memory: Memory,
    serving: int,
    affordable: int | None = None,
    standbys: int = 0,
) -> Target:
    """The autoscaler's answer, but 1 at least for a revision of which no worker was ever ready.

    `serving` counts where nothing was decided before; `standbys`: so many starts may be claims.
    0 requests, minReplicas 0, revision b never ready -> demand 0, replicas 1. 20 requests, target
    queue depth 8 -> demand 3, replicas 3.
    """
    before = serving if memory.target is None else memory.target
    scaling = learn(
        deployment,
        memory.scaling,
        signals.counts,
        now,
        Fleet(before, signals.waiting, before < deployment.scaling.max_replicas),
        cold_start(memory),
    )
    decision = decide_replicas(
        deployment.scaling,
        Load(
            now=now,
            complete=signals.complete,
            waiting=signals.waiting,
            running=signals.running,
            # Silence keeps what load asked for, not what was there to prove a revision.
            replicas=0 if memory.only_proves and not signals.complete else before,
            last_active=memory.last_active,
            cold_start=cold_start(memory),
            claim=memory.claim_seconds,
            standbys=standbys,
            affordable=affordable,
        ),
        memory.peaks,
        scaling,
    )
    must_prove = memory.last_ready_revision != deployment.revision
    replicas, reason, part = decision.replicas, decision.reason, decision.decided_by
    if replicas == 0 and must_prove and deployment.scaling.mode == "Auto":
        replicas, reason = 1, "a new revision starts one worker to prove itself"
        part = "proving a revision"
    return Target(
        before=before,
        demand=decision.replicas,
        demand_reason=decision.reason,
        replicas=replicas,
        reason=reason,
        decided_by=part,
        wished=decision.wished,
        standbys=standbys,
        peaks=decision.peaks,
        scaling=scaling,
        wake_at=decision.wake_at,
    )


def learn(
    deployment: Deployment,
    scaling: ScalingMemory,
    counts: Counts,
    now: float,
    fleet: Fleet,
    start: float,
) -> ScalingMemory:
    """What the autoscaler knows with these counters. In mode External there is nothing to know."""
    if deployment.scaling.mode == "External":
        return scaling
    targets = deployment.scaling.targets
    return scaling.take(now, counts, fleet, start or USUAL_COLD_START, targets)


def cold_start(memory: Memory) -> float:
    """Seconds from a decision to a ready worker, as the last start took; 0: none yet."""
    return memory.cold_start_seconds


def decide_given_up(
    deployment: Deployment, now: float, memory: Memory, groups: WorkerGroups, target: Target
) -> str:
    """The revision that may not take a previous worker's place again; empty: none.

    Only where there is no surge to try it in. maxSurge 0, revision b (a served before) failed 3
    times in a row -> b; with maxSurge 1 -> none.
    """
    revision = deployment.revision
    if memory.last_ready_revision in ("", revision):
        return ""  # there is no previous worker, or this revision was ready after all
    if deployment.rollout.surge(target.replicas or 1):
        return memory.given_up
    is_stuck = any(w.problem is not None and w.problem.is_lasting(now) for w in groups.current)
    return (
        revision if is_stuck or memory.failures.count >= FAILURES_UNTIL_STALLED else memory.given_up
    )

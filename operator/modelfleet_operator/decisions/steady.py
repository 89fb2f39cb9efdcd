"""What a plan decides where nothing changed but the load: far cheaper than a whole plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from .autoscale import Load, Peaks, ScalingDecision, decide_replicas
from .latency import Fleet
from .memory import Memory
from .observed import Deployment
from .scaling_memory import Counts, ScalingMemory
from .target import cold_start, learn


@dataclass(frozen=True, slots=True)
class Steady:
    """What such plans remember; `into` makes the memory for the next whole plan of it."""

    peaks: Peaks
    last_active: float
    scaling: ScalingMemory
    standbys: int = 0  # that the last whole plan counted on

    def into(self, memory: Memory) -> Memory:
        """`memory` is that of the last whole plan."""
        return replace(memory, peaks=self.peaks, last_active=self.last_active, scaling=self.scaling)


def may_be_steady(deployment: Deployment, memory: Memory) -> bool:
    """Whether the plans after this whole one, whose memory this is, may be steady ones."""
    has_troubles = (
        memory.failures.count
        or memory.old_failures.count
        or memory.unhealthy
        or memory.shortages
        or memory.noticed
    )
    return not (
        has_troubles
        or memory.target is None
        or deployment.scaling.max_hourly_cost is not None
        or deployment.cheapest  # what workers measure may choose another class
        or memory.only_proves
        or memory.last_ready_revision != deployment.revision
    )


def decide_steady(
    deployment: Deployment,
    *,
    waiting: int,
    running: int,
    last_request: float,
    now: float,
    counts: Callable[[], Counts],
    memory: Memory,
    steady: Steady,
) -> tuple[Steady, ScalingDecision] | None:
    """What `make_plan` would remember and decide now; None: another count, so make that plan.

    For a caller that plans very often, such as a simulation. It promises that `may_be_steady`, and
    that since the last whole plan, whose memory this is, no worker came, went or changed its state,
    gateways reach the same ones, what runs on draining ones is the same, and the plan's `wake_at`
    has not come. Then only the wanted count can change the plan. `counts` are asked for when a
    sample of them is due.
    """
    last_active = now if waiting + running > 0 else max(steady.last_active, last_request)
    scaling = steady.scaling
    if scaling.is_due(now):
        replicas = memory.target or 0
        fleet = Fleet(replicas, waiting, replicas < deployment.scaling.max_replicas)
        scaling = learn(deployment, scaling, counts(), now, fleet, cold_start(memory))
    decision = decide_replicas(
        deployment.scaling,
        Load(
            now=now,
            complete=True,
            waiting=waiting,
            running=running,
            replicas=memory.target or 0,
            last_active=last_active,
            cold_start=cold_start(memory),
            claim=memory.claim_seconds,
            standbys=steady.standbys,
        ),
        steady.peaks,
        scaling,
    )
    if decision.replicas != memory.target:
        return None
    return Steady(decision.peaks, last_active, scaling, steady.standbys), decision

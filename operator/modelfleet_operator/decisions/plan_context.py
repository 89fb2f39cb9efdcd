"""What a plan knows when it has decided: all that the status is made of."""

from __future__ import annotations

from dataclasses import dataclass

from .memory import Memory
from .observed import Observed, Signals
from .placement import Placement
from .worker_groups import WorkerGroups


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanContext:
    """What a plan knows when it has decided."""

    seen: Observed
    signals: Signals
    now: float
    memory: Memory
    groups: WorkerGroups  # without the workers that the plan retires
    before: int  # replicas wanted until now
    target: int  # replicas wanted
    demand: int  # of them, without the one that only proves its revision
    reason: str  # for the target
    missing: int  # workers that may be started now, or as soon as `start_at`
    waits: str  # for what a rollout waits; empty: for nothing
    start_at: float  # when they may be started
    placement: Placement

    @property
    def is_proven(self) -> bool:
        """Whether the current revision has been ready once."""
        return self.memory.proven == self.seen.deployment.revision

    @property
    def serving_revision(self) -> str:
        """The one that answers requests, or would if it were woken."""
        return self.memory.proven

    @property
    def is_asleep_under_old(self) -> bool:
        """Only the new revision is being proven; a request would wake the one that served last."""
        past = {past.revision for past in self.seen.history}
        return (
            self.demand == 0
            and not self.is_proven
            and self.serving_revision in past
            and not self.groups.old
            and not self.groups.ready
        )

    @property
    def is_asleep(self) -> bool:
        """Nothing runs, on purpose, and a request would wake it."""
        scaling = self.seen.deployment.scaling
        return (
            scaling.mode == "Auto"
            and self.target == 0
            and self.is_proven
            and not self.groups.serving
        )

"""What the steps of a plan read: the observed state, and what earlier steps decided."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .budget import Budget
from .choice import Choice
from .cold_start import deadline_of
from .memory import Memory
from .observed import Observed, Signals, Worker, WorkerState
from .placement import PlacementDecision
from .rollout import RolloutDecision, RolloutPolicy
from .target import Target
from .worker_groups import Reasoned, WorkerGroups, why_altered


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerChanges:
    """Which workers serve no more, serve again, or are started. All others stay as they are."""

    rollout: RolloutDecision = field(default_factory=lambda: RolloutDecision(new=0, old=0))
    drain: tuple[Reasoned, ...] = ()  # serve no more; stopped at once where nothing runs on them
    reroute: tuple[Reasoned, ...] = ()  # draining ones that are needed after all
    rescued: tuple[str, ...] = ()  # old revisions that get a worker for streams that wait
    start_new: int = 0  # workers of the current revision
    start_new_at: float = 0.0  # not sooner, Unix seconds
    start_old: tuple[tuple[str, str], ...] = ()  # revision and reason of each
    start_old_at: float = 0.0
    unpaid: int = 0  # workers that are not started, since spec.scaling.maxHourlyCost is reached

    @property
    def missing(self) -> int:
        """Workers to start now, or as soon as `start_at`."""
        return self.start_new + len(self.start_old)

    @property
    def start_at(self) -> float:
        """When the next one may be started, Unix seconds."""
        return self.start_new_at if self.start_new else self.start_old_at


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanContext:
    """Frozen: a step returns what it decides, and the next context holds it."""

    seen: Observed
    signals: Signals
    now: float
    memory: Memory  # as it goes back into the next plan
    placement: PlacementDecision
    target: Target
    groups: WorkerGroups  # once `changes` are decided: as they will be then
    changes: WorkerChanges = field(default_factory=WorkerChanges)
    budget: Budget = field(default_factory=Budget)
    choice: Choice | None = None  # None: the classes stand in order
    returning: str = ""  # why one of the leaving workers, which has no notice, is replaced

    @property
    def revision(self) -> str:
        """The one that the spec asks for."""
        return self.seen.deployment.revision

    @property
    def is_proven(self) -> bool:
        """Whether a worker of the current revision was ready once."""
        return self.memory.last_ready_revision == self.seen.deployment.revision

    @property
    def most_starts(self) -> int | None:
        """Workers that may start within the budget; the minimum comes first. None: no limit."""
        if self.budget.room is None:
            return None
        return max(self.budget.room, self.missing_minimum)

    @property
    def missing_minimum(self) -> int:
        """Workers below spec.scaling.minReplicas, which start whatever the budget says."""
        return max(self.seen.deployment.scaling.min_replicas - len(self.existing), 0)

    @property
    def rollout_policy(self) -> RolloutPolicy:
        """With a surge that the budget has room for: else nothing would ever be replaced."""
        rollout, most = self.seen.deployment.rollout, self.most_starts
        if most is None:
            return rollout
        target = self.target.replicas
        affordable = max(len(self.existing) + most - target, 0)
        return replace(rollout, max_surge=min(rollout.surge(target), affordable))

    @property
    def previous_revision(self) -> str:
        """The last one that was ready: it serves until the current one is; empty: none."""
        return "" if self.is_proven else self.memory.last_ready_revision

    @property
    def is_overdue(self) -> bool:
        """Whether the wake that goes on takes longer than it may."""
        return 0 < deadline_of(self.seen.deployment, self.memory) <= self.now

    @property
    def history(self) -> set[str]:
        """Old revisions that workers can be started of."""
        return {past.revision for past in self.seen.history} - {self.revision}

    @property
    def existing(self) -> list[Worker]:
        """Those that hold an accelerator: draining and stopping ones, too.

        But none with a notice: what is started in its place is no growth.
        """
        lost = {w.uid for w in self.groups.lost}
        return [
            w
            for w in self.seen.workers
            if w.failure is None and w.notice is None and w.uid not in lost
        ]

    @property
    def is_asleep(self) -> bool:
        """Nothing runs, on purpose, and a request would wake it."""
        deployment = self.seen.deployment
        return (
            deployment.scaling.is_woken_by_requests
            and not deployment.error
            and self.placement.is_possible
            and self.target.replicas == 0
            and self.is_proven
            and not self.groups.serving
        )

    @property
    def is_previous_asleep(self) -> bool:
        """Only the new revision is being proven; a request would wake the previous one."""
        return (
            self.target.demand == 0
            and self.seen.deployment.scaling.is_woken_by_requests
            and self.placement.is_possible
            and not self.is_proven
            and self.previous_revision in self.history
            and not self.groups.old
            and not self.groups.ready
        )

    def has_served(self, worker: Worker) -> bool:
        """Whether it was ever ready, as far as gateways can tell."""
        return (
            not self.signals.complete
            or worker.uid in self.memory.was_ready
            or worker.uid in self.groups.ready
            or self.signals.reach(worker.id) != "none"
        )

    def running(self, worker: Worker) -> int:
        """Requests that it has, as its Stats say."""
        stats = self.signals.stats.get(worker.id)
        return stats.running if stats else 0

    def reroutable(self, revision: str) -> list[Worker]:
        """Draining workers of it that are as good as new ones that are ready, busiest first."""
        able = [w for w in self.groups.draining if w.revision == revision and self._says_ready(w)]
        return sorted(able, key=lambda w: (-self.running(w), w.ordinal))

    def _says_ready(self, worker: Worker) -> bool:
        stats = self.signals.stats.get(worker.id)
        return (
            worker.uid not in self.groups.unhealthy
            and worker.notice is None
            and not why_altered(worker, self.signals, self.memory, self.seen.deployment.key)
            and stats is not None
            and stats.state is WorkerState.READY
        )

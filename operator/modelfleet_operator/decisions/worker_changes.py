"""Who stays, who goes and who is started: a rollout's counts turned into workers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .draining import can_come_back
from .memory import Memory
from .observed import Observed, Signals, Worker
from .rollout import RevisionCounts, decide_rollout
from .worker_groups import WorkerGroups

Why = tuple[Worker, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the autoscaler wants."""

    replicas: int  # 1 at least while a revision must prove itself
    demand: int  # without the worker that only proves its revision
    reason: str


@dataclass(slots=True, kw_only=True)
class WorkerChanges:
    """What becomes of whom. The rest stays as it is."""

    retired: list[Why] = field(default_factory=list)
    back: list[Why] = field(default_factory=list)  # draining ones that are needed after all
    new: int = 0  # workers of the current revision to start
    old: list[tuple[str, str]] = field(default_factory=list)  # revision and reason of each start
    waits: str = ""  # for what a rollout waits; written for a person


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """All that changes looks at."""

    seen: Observed
    signals: Signals
    now: float
    memory: Memory
    groups: WorkerGroups
    target: Target

    @property
    def revision(self) -> str:
        """The one that the spec asks for."""
        return self.seen.deployment.revision

    @property
    def is_proven(self) -> bool:
        """Whether a worker of it was ready once."""
        return self.memory.proven == self.revision

    @property
    def fallback(self) -> str:
        """The revision that serves until the current one does; empty: none."""
        return "" if self.is_proven else self.memory.proven

    @property
    def past(self) -> set[str]:
        """Old revisions that workers can be started of."""
        return {past.revision for past in self.seen.history} - {self.revision}

    def has_served(self, worker: Worker) -> bool:
        """Whether it was ever ready, as far as gateways can tell."""
        return (
            not self.signals.complete
            or worker.uid in self.memory.was_ready | self.groups.ready
            or self.signals.reach(worker.id) != "none"
        )

    def draining(self, revision: str) -> list[Worker]:
        """Workers of it that could be routed to again, the busiest first."""
        able = [
            worker
            for worker in self.groups.leaving
            if worker.revision == revision and can_come_back(worker, self.signals, self.memory)
        ]
        return sorted(able, key=lambda w: (-_running(w, self.signals), w.ordinal))


def decide_worker_changes(scene: Scene) -> WorkerChanges:
    """Brings the routable workers to what the rollout allows now."""
    groups, changes = scene.groups, WorkerChanges()
    strays = [w for w in groups.old if w.revision != scene.fallback and not scene.has_served(w)]
    old = [w for w in groups.old if w not in strays]
    decision = decide_rollout(scene.seen.deployment.rollout, _count_revisions(scene, old, strays))
    changes.waits = decision.waits

    _start_new(scene, changes, decision.new - len(groups.current))
    _start_old(scene, changes, decision.old - len(old))
    needed = _rescue(scene, changes, groups.old)
    takes_over = f"revision {scene.revision} takes over"
    making_room = [worker for worker, _ in changes.retired]
    current = [w for w in groups.current if w not in making_room]
    changes.retired += [
        *_least_useful(scene, current, len(current) - decision.new, _why_less(scene)),
        *((w, "its revision was never ready") for w in strays if w not in needed),
        *_least_useful(
            scene, (w for w in old if w not in needed), len(old) - decision.old, takes_over
        ),
    ]
    return changes


def _count_revisions(scene: Scene, old: list[Worker], strays: list[Worker]) -> RevisionCounts:
    seen, groups = scene.seen, scene.groups
    revision, fallback = scene.revision, scene.fallback
    exist = _existing(scene)
    routable = {worker.uid for worker in old}
    gone_old = [w for w in exist if w.revision != revision and w.uid not in routable]
    return RevisionCounts(
        target=scene.target.replicas,
        demand=scene.target.demand,
        new=len(groups.current) + len(scene.draining(revision)),
        new_ready=groups.ready_current,
        old=len(old),
        old_ready=sum(w.uid in groups.ready for w in old),
        old_idle=sum(not scene.has_served(w) for w in old),
        old_draining=len(scene.draining(fallback)) if fallback else 0,
        holding=len(exist),
        leaving_old=len(gone_old),
        proven=scene.is_proven,
        restartable=fallback in scene.past,
        given_up=scene.memory.given_up == revision,
        blocked=bool(seen.deployment.error),
    )


def _start_new(scene: Scene, changes: WorkerChanges, count: int) -> None:
    back = scene.draining(scene.revision)[: max(count, 0)]
    changes.back += [(worker, "it is needed again") for worker in back]
    changes.new = max(count - len(back), 0)


def _start_old(scene: Scene, changes: WorkerChanges, count: int) -> None:
    why = f"revision {scene.revision} is not ready: {scene.target.reason}"
    back = scene.draining(scene.fallback)[: max(count, 0)]
    changes.back += [(worker, why) for worker in back]
    changes.old += [(scene.fallback, why)] * (count - len(back))


def _rescue(scene: Scene, changes: WorkerChanges, old: Iterable[Worker]) -> list[Worker]:
    """One routable worker for each old revision that streams wait for; returns who must stay."""
    needed = []
    for revision in sorted(scene.signals.awaited - {scene.revision}):
        able = [worker for worker in old if worker.revision == revision]
        started = [other for other, _ in changes.old] + [w.revision for w, _ in changes.back]
        why = f"a stream that revision {revision} began waits for a worker like it"
        if scene.target.replicas == 0 or revision in started:
            continue
        if able:
            needed.append(max(able, key=lambda w: _use(scene, w)))
        elif back := scene.draining(revision):
            changes.back.append((back[0], why))
        elif revision in scene.past and _has_room(scene, changes, why):
            changes.old.append((revision, why))
    return needed


def _has_room(scene: Scene, changes: WorkerChanges, why: str) -> bool:
    """A stream that began comes before a worker that does not serve yet, and before the surge."""
    if changes.new:
        changes.new -= 1
        return True
    target, groups = scene.target.replicas, scene.groups
    limit = target + scene.seen.deployment.rollout.surge(target)
    if len(_existing(scene)) < limit:
        return True
    loading = [w for w in groups.current if not scene.has_served(w)]
    ends = any(w.stopping for w in groups.leaving)
    if loading and not ends:
        changes.retired.append((min(loading, key=lambda w: _use(scene, w)), why))
    return not loading and not ends


def _existing(scene: Scene) -> list[Worker]:
    """Those that hold an accelerator: draining and ending ones, too."""
    return [w for w in scene.seen.workers if w.failure is None and w not in scene.groups.lost]


def _why_less(scene: Scene) -> str:
    if scene.memory.given_up == scene.revision:
        return f"it never was ready, and revision {scene.fallback} needs its place"
    return scene.target.reason


def _least_useful(scene: Scene, workers: Iterable[Worker], count: int, why: str) -> list[Why]:
    """Those that never served first, then those that are not ready, the idlest, the youngest."""
    chosen = sorted(workers, key=lambda worker: _use(scene, worker))[: max(count, 0)]
    return [(worker, why) for worker in chosen]


def _use(scene: Scene, worker: Worker) -> tuple[bool, bool, bool, int, float, int]:
    return (
        scene.has_served(worker),
        worker.uid in scene.groups.ready,
        worker.revision == scene.fallback,
        _running(worker, scene.signals),
        -worker.created,
        -worker.ordinal,
    )


def _running(worker: Worker, signals: Signals) -> int:
    stats = signals.stats.get(worker.id)
    return stats.running if stats else 0

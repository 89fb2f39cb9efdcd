"""The plan: what to do so that the observed fleet becomes the desired one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from . import draining
from .actions import Action, Create, Remove, Reroute, Stop, Unroute
from .autoscale import Load, decide_replicas
from .causes import STALLED_AFTER
from .conditions import make_status
from .draining import is_idle, why_stop
from .history import keep_history
from .memory import Memory
from .names import lowest_free, worker_name
from .observed import LOST_AFTER, Deployment, Observed, Signals
from .placement import place
from .plan_context import PlanContext
from .status import Status
from .worker_changes import Scene, Target, decide_worker_changes
from .worker_groups import LOST_NODE_TIMEOUT, UNWELL_TIMEOUT, WorkerGroups, group_workers, retry_at


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRoute:
    """A worker in the gateways' view."""

    id: str
    address: str
    routable: bool
    revision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One model in the gateways' view."""

    model: str
    served_names: tuple[str, ...]
    max_queue: int
    hold_timeout: float
    created: float
    workers: tuple[WorkerRoute, ...]
    eta: float
    phase: str
    revisions: tuple[str, ...] = ()  # workers of these can be started


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A decision about one deployment. Memory goes back in with the next look."""

    actions: tuple[Action, ...]
    status: Status
    memory: Memory
    route: Route
    wake_at: float | None  # when to look again though nothing happened, Unix seconds


def make_plan(
    seen: Observed, signals: Signals, now: float, memory: Memory, previous: Status | None
) -> Plan:
    """What to do now, and why; `previous` is the status that was last made.

    Raises nothing: whatever is wrong with the deployment becomes a condition.
    """
    deployment = seen.deployment
    groups, memory = group_workers(seen, signals, now, memory)
    placement = place(seen, now, memory.shortages)
    memory = replace(memory, shortages=placement.shortages)
    groups = groups.without([worker.uid for worker, _ in placement.moved])
    in_force = len(groups.serving) if memory.target is None else memory.target
    target, wake_at, memory = _decide_target(deployment, signals, now, memory, in_force)
    memory = _give_up(seen, now, memory, groups)
    scene = Scene(seen=seen, signals=signals, now=now, memory=memory, groups=groups, target=target)
    changes = decide_worker_changes(scene)
    if deployment.error or not placement.is_possible:
        changes.new = 0
    if not placement.is_possible:
        changes.old = []
    refused_until = deployment.refusal.retry_at if deployment.refusal else now
    start_at = max(now, retry_at(memory.failures), refused_until)
    start_old_at = max(now, retry_at(memory.old_failures), refused_until)

    records, forgotten = keep_history(seen, signals, memory)
    actions: list[Action] = [*records]
    actions += [Remove(w, f"it ended: {w.failure}") for w in groups.dead]
    actions += [Stop(w, why, is_idle(w, signals, memory)) for w, why in groups.failing]
    # Before another class gets a worker for it: only one of the two is ever waiting.
    actions += [Stop(worker, why) for worker, why in placement.moved]
    actions += [
        Stop(w, why, is_idle=True) if is_idle(w, signals, memory) else Unroute(w, why)
        for w, why in changes.retired
    ]
    actions += [Reroute(worker, why) for worker, why in changes.back]
    left = groups.without([worker.uid for worker, _ in changes.retired])
    left = left.with_back([worker for worker, _ in changes.back], deployment.revision)
    actions += [
        Stop(worker, why, is_idle(worker, signals, memory))
        for worker in left.leaving
        if (why := why_stop(worker, seen, signals, now, memory, left))
    ]
    starts = []
    if start_old_at <= now:
        starts += changes.old
    if start_at <= now:
        starts += [(deployment.revision, target.reason)] * changes.new
    actions += _creates(seen, starts, placement.accelerator)
    actions += forgotten

    context = PlanContext(
        seen=seen,
        signals=signals,
        now=now,
        memory=memory,
        groups=left,
        before=in_force,
        target=target.replicas,
        demand=target.demand,
        reason=target.reason,
        missing=changes.new + len(changes.old),
        waits=changes.waits,
        start_at=start_at if changes.new else start_old_at,
        placement=placement,
    )
    status = make_status(context, previous)
    alarms = [
        wake_at,
        placement.wake_at,
        *(alarm for w in left.serving if w.problem for alarm in w.problem.alarms),
        start_at if changes.new else None,
        start_old_at if changes.old else None,
        *(w.problem.since + LOST_NODE_TIMEOUT for w in left.serving if w.problem),
        *(since + UNWELL_TIMEOUT for since in memory.unwell.values()),
        *(alarm for worker in left.leaving for alarm in draining.wake_at(worker, seen)),
        *(w.ends_by + LOST_AFTER for w in left.leaving if w.ends_by is not None),
    ]
    return Plan(
        actions=tuple(actions),
        status=status,
        memory=memory,
        route=_route(seen, left, status),
        wake_at=min((alarm for alarm in alarms if alarm is not None and alarm > now), default=None),
    )


def _give_up(seen: Observed, now: float, memory: Memory, groups: WorkerGroups) -> Memory:
    """A revision that fails where there is no surge may not take an old worker's place again."""
    revision, rollout = seen.deployment.revision, seen.deployment.rollout
    if memory.proven in ("", revision) or rollout.surge(memory.target or 1):
        return memory
    stuck = any(w.problem is not None and w.problem.is_lasting(now) for w in groups.current)
    if stuck or memory.failures.count >= STALLED_AFTER:
        return replace(memory, given_up=revision)
    return memory


def _decide_target(
    deployment: Deployment, signals: Signals, now: float, memory: Memory, in_force: int
) -> tuple[Target, float | None, Memory]:
    """The autoscaler's answer, but one worker at least for a revision that never was ready."""
    decision = decide_replicas(
        deployment.scaling,
        Load(
            now=now,
            complete=signals.complete,
            waiting=signals.waiting,
            running=signals.running,
            # Silence keeps what load asked for, not what was there to prove a revision.
            replicas=0 if memory.only_proves and not signals.complete else in_force,
            last_active=memory.last_active,
        ),
        memory.peaks,
    )
    target, reason = decision.replicas, decision.reason
    proven = memory.proven == deployment.revision
    if target == 0 and not proven and deployment.scaling.mode == "Auto":
        target, reason = 1, "a new revision starts one worker to prove itself"
    memory = replace(
        memory,
        target=target,
        only_proves=target > decision.replicas,
        peaks=decision.peaks,
    )
    wanted = Target(replicas=target, demand=decision.replicas, reason=reason)
    return wanted, decision.wake_at, memory


def _creates(
    seen: Observed, starts: Iterable[tuple[str, str]], accelerator: str
) -> Iterator[Create]:
    """Each start is a revision and why; terminating and dead workers keep their ordinals."""
    deployment = seen.deployment
    taken = {(worker.revision, worker.ordinal) for worker in seen.workers}
    for revision, reason in starts:
        ordinal = lowest_free({number for name, number in taken if name == revision})
        taken.add((revision, ordinal))
        name = worker_name(deployment.name, revision, ordinal)
        yield Create(name, revision, ordinal, reason, accelerator)


def _route(seen: Observed, groups: WorkerGroups, status: Status) -> Route:
    """Everything that runs stays in the view: gateways finish there what they began."""
    deployment = seen.deployment
    routable = {worker.uid for worker in groups.serving}
    cold = status.cold_start
    asleep = "" if status.ready_replicas else "Asleep"
    return Route(
        model=deployment.key,
        served_names=tuple(
            name for name in deployment.served_names if seen.owners.get(name) == deployment.key
        ),
        max_queue=deployment.max_queue,
        hold_timeout=deployment.hold_timeout,
        created=deployment.created,
        workers=tuple(
            WorkerRoute(id=w.id, address=w.address, routable=w.uid in routable, revision=w.revision)
            for w in sorted(seen.workers, key=lambda w: w.id)
            if w.address and w.failure is None
        ),
        eta=cold.eta if cold else 0.0,
        phase=cold.phase if cold else asleep,
        revisions=tuple(sorted({deployment.revision, *(past.revision for past in seen.history)})),
    )

"""The plan: what to do so that the observed fleet becomes the desired one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .autoscale import Load, decide_replicas
from .census import UNWELL_TIMEOUT, Census, retry_at, take_census
from .conditions import Outlook, make_status
from .memory import Memory
from .names import free_ordinals, worker_name
from .observed import Deployment, Observed, Signals, Worker
from .status import Status

UNROUTE_TIMEOUT = 5.0  # seconds until an unrouted worker is stopped even if gateways say nothing


@dataclass(frozen=True, slots=True)
class Create:
    """Start a worker. That it exists already is success: the name says everything."""

    name: str
    revision: str  # usually the deployment's current one; an old one of the body's history
    ordinal: int
    reason: str
    accelerator: str = ""  # an AcceleratorClass; empty: wherever the scheduler puts it


@dataclass(frozen=True, slots=True)
class Unroute:
    """Keep `Worker.unrouted_at` where a restarted operator finds it; the worker lives on."""

    worker: Worker
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End it gracefully: it drains by itself. Only the one with this uid; gone is success."""

    worker: Worker
    reason: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Clear away what is left of a dead worker. Only the one with this uid; gone is success."""

    worker: Worker
    reason: str


Action = Create | Unroute | Stop | Remove


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
    census, memory = take_census(seen, signals, now, memory)
    in_force = len(census.serving) if memory.target is None else memory.target
    target, reason, look_again, memory = _decide_target(deployment, signals, now, memory, in_force)
    want_current, want_old = _split(target, memory.proven == deployment.revision, census)

    surplus = [
        *_least_useful(census.current, len(census.current) - want_current, census, signals),
        *_least_useful(census.old, len(census.old) - want_old, census, signals),
    ]
    start_at = max(now, retry_at(memory.failures))
    missing = 0 if deployment.error else max(want_current - len(census.current), 0)
    actions: list[Action] = [Remove(w, f"it ended: {w.failure}") for w in census.dead]
    actions += [Stop(worker, why) for worker, why in census.failing]
    actions += [_retire(worker, signals, _why_surplus(worker, seen, reason)) for worker in surplus]
    actions += [
        Stop(worker, "no gateway sends it requests any more")
        for worker in census.leaving
        if not worker.stopping and _may_stop(worker, signals, now)
    ]
    if start_at <= now:
        actions += _starts(seen, missing, reason)

    gone = {worker.uid for worker in surplus}
    left = replace(
        census,
        current=tuple(w for w in census.current if w.uid not in gone),
        old=tuple(w for w in census.old if w.uid not in gone),
        ready=census.ready - gone,
    )
    outlook = Outlook(
        seen=seen,
        signals=signals,
        now=now,
        memory=memory,
        census=left,
        before=in_force,
        target=target,
        reason=reason,
        missing=missing,
        start_at=start_at,
    )
    status = make_status(outlook, previous)
    alarms = [
        look_again,
        start_at if missing and start_at > now else None,
        *(since + UNWELL_TIMEOUT for since in memory.unwell.values()),
        *(w.unrouted_at + UNROUTE_TIMEOUT for w in census.leaving if w.unrouted_at is not None),
    ]
    return Plan(
        actions=tuple(actions),
        status=status,
        memory=memory,
        route=_route(seen, left, status),
        wake_at=min((alarm for alarm in alarms if alarm is not None and alarm > now), default=None),
    )


def _decide_target(
    deployment: Deployment, signals: Signals, now: float, memory: Memory, in_force: int
) -> tuple[int, str, float | None, Memory]:
    """The autoscaler's answer, but one worker at least for a revision that never was ready."""
    decision = decide_replicas(
        deployment.scaling,
        Load(
            now=now,
            complete=signals.complete,
            waiting=signals.waiting,
            running=signals.running,
            replicas=in_force,
            last_active=memory.last_active,
        ),
        memory.peaks,
    )
    target, reason = decision.replicas, decision.reason
    proven = memory.proven == deployment.revision
    if target == 0 and not proven and deployment.scaling.mode == "Auto":
        target, reason = 1, "a new revision starts one worker to prove itself"
    memory = replace(memory, target=target, peaks=decision.peaks)
    return target, reason, decision.look_again, memory


def _split(target: int, proven: bool, census: Census) -> tuple[int, int]:
    """How many workers of the current revision and of old ones.

    Old workers cannot be started again, so they stay until new ones take their place, one at a
    time; before the new revision is proven, one new worker is enough, unless old ones are too few.
    """
    old = len(census.old)
    if target == 0 or old == 0:
        return target, 0
    if not proven:
        return max(1, target - old), target
    ready = census.ready_current
    return min(target, max(ready + 1, target - old)), max(0, target - ready)


def _least_useful(
    workers: tuple[Worker, ...], count: int, census: Census, signals: Signals
) -> list[Worker]:
    """Those that are not ready first, then those with the fewest requests, then the youngest."""

    def use(worker: Worker) -> tuple[bool, int, float, int]:
        stats = signals.stats.get(worker.id)
        running = stats.running if stats else 0
        return worker.uid in census.ready, running, -worker.created, -worker.ordinal

    return sorted(workers, key=use)[: max(count, 0)]


def _retire(worker: Worker, signals: Signals, reason: str) -> Action:
    """First no gateway routes to it, then it drains: so that nothing is refused on the way."""
    return Stop(worker, reason) if signals.reach(worker.id) == "none" else Unroute(worker, reason)


def _may_stop(worker: Worker, signals: Signals, now: float) -> bool:
    if worker.unrouted_at is None or signals.reach(worker.id) == "none":
        return True
    return not 0 <= now - worker.unrouted_at < UNROUTE_TIMEOUT


def _why_surplus(worker: Worker, seen: Observed, reason: str) -> str:
    if worker.revision != seen.deployment.revision:
        return f"revision {seen.deployment.revision} takes over"
    return reason


def _starts(seen: Observed, count: int, reason: str) -> list[Create]:
    deployment = seen.deployment
    taken = {w.ordinal for w in seen.workers if w.revision == deployment.revision}
    return [
        Create(
            name=worker_name(deployment.name, deployment.revision, ordinal),
            revision=deployment.revision,
            ordinal=ordinal,
            reason=reason,
        )
        for ordinal in free_ordinals(taken, count)
    ]


def _route(seen: Observed, census: Census, status: Status) -> Route:
    """Everything that runs stays in the view: gateways finish there what they began."""
    deployment = seen.deployment
    routable = {worker.uid for worker in census.serving}
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
    )

"""What the status says about a deployment: only what was observed, and why."""

from __future__ import annotations

from dataclasses import replace

from .capacity import SPOT
from .causes import (
    SCALED_TO_ZERO,
    Cause,
    budget_limits,
    certificate_problem,
    placement_limits,
)
from .cold_start import deadline_of, expected_cold_start, typical_wake, wake_phases
from .cost import cost_per_hour, currency_of
from .load_estimate import PHASES, estimate_load
from .names import namespace_of
from .notices import describe, ends_at, list_interruptions
from .observed import GatewayReport, Observed, Worker, WorkerState
from .placement_status import placement_status
from .plan_context import PlanContext
from .reasons import Reason
from .status import (
    ColdStartProgress,
    Condition,
    ConditionType,
    LearnedColdStart,
    Queue,
    ScalingEvent,
    Status,
    Truth,
)

HISTORY = 10  # scaling steps that the status keeps
DEPLOYMENT_LABEL = "modelfleet.dev/deployment"

Finding = tuple[Truth, Reason, str]  # status, reason, message


def make_status(context: PlanContext, cause: Cause | None, previous: Status | None) -> Status:
    """The whole status; `previous` gives the history and the times of unchanged conditions.

    `cause`: see causes.find_cause.
    """
    seen, groups = context.seen, context.groups
    existing = [w for w in seen.workers if w.failure is None and not w.stopping]
    cold = _cold_start(context)
    findings: dict[ConditionType, Finding] = {
        "Ready": _ready(context, cold, cause),
        "Reconciling": _reconciling(context, cause),
        "Stalled": _stalled(cause),
        "NameConflict": _name_conflict(seen),
        "PlacementLimited": _placement_limited(context),
        "BudgetLimited": budget_limits(context),
    }
    signals = context.signals
    return Status(
        observed_generation=seen.deployment.generation,
        conditions=tuple(
            _condition(type_, finding, context, previous) for type_, finding in findings.items()
        ),
        replicas=len(existing),
        desired_replicas=context.target.replicas,
        ready_replicas=len(groups.ready),
        selector=f"{DEPLOYMENT_LABEL}={seen.deployment.name}",
        revision=seen.deployment.revision,
        queue=Queue(waiting=signals.waiting, running=signals.running) if signals.gateways else None,
        scaling_history=_history(context, previous),
        cold_start=cold,
        cold_starts=tuple(
            LearnedColdStart(accelerator=name, wakes=len(wakes), seconds=typical_wake(wakes))
            for name, wakes in sorted(context.memory.wakes.items())
        ),
        weights_on=context.memory.weights_on,
        cost_per_hour=cost_per_hour(seen),
        currency=currency_of(seen, seen.workers)[0],
        interruptions=list_interruptions(context),
        placement=placement_status(context),
        spot_replicas=sum(w.capacity == SPOT for w in existing)
        if seen.deployment.spot is not None or any(w.capacity for w in existing)
        else None,
    )


def _condition(
    type_: ConditionType, finding: Finding, context: PlanContext, previous: Status | None
) -> Condition:
    status, reason, message = finding
    # An older version's status may lack a condition.
    before = {c.type: c for c in previous.conditions} if previous else {}
    same = type_ in before and before[type_].status == status
    changed = before[type_].changed if same else context.now
    return Condition(
        type=type_,
        status=status,
        reason=reason.value,
        message=message,
        changed=changed,
        generation=context.seen.deployment.generation,
    )


def _history(context: PlanContext, previous: Status | None) -> tuple[ScalingEvent, ...]:
    history = previous.scaling_history if previous else ()
    if context.target.replicas == context.target.before:
        return history
    event = ScalingEvent(
        time=context.now,
        before=context.target.before,
        after=context.target.replicas,
        reason=context.target.reason,
    )
    return (*history, event)[-HISTORY:]


def _ready(context: PlanContext, cold: ColdStartProgress | None, cause: Cause | None) -> Finding:
    gateways = context.signals.gateways
    if not gateways:
        return (
            "Unknown",
            Reason.NO_GATEWAY,
            "no gateway is connected, so it is unknown what gateways reach",
        )
    behind = [gateway.gateway for gateway in gateways if not gateway.heard]
    if behind:
        return (
            "False",
            Reason.GATEWAY_BEHIND,
            f"{', '.join(behind)} has not taken the latest view yet",
        )
    if context.is_asleep:
        return "True", Reason.ASLEEP, f"no worker runs; {_what_wakes(context)}"
    new, old = context.revision, context.previous_revision
    if context.is_previous_asleep:
        wakes = f"no worker runs; {_what_wakes(context)} of revision {old}"
        return "True", Reason.ASLEEP, f"{wakes}, since revision {new} is not ready"
    unserved = [gateway.gateway for gateway in gateways if not _is_served(context, gateway)]
    if not unserved:
        count = f"{len(context.groups.ready)} of {_replicas(context.target.replicas)}"
        if context.groups.ready and not context.is_proven:
            waits = f"of revision {old} until revision {new} is ready"
            return "True", Reason.SERVING_OLD_REVISION, f"{count} ready at every gateway, {waits}"
        return "True", Reason.SERVING, f"{count} ready at every gateway{_computed_by(context)}"
    if problem := certificate_problem(context):
        return "False", Reason.CERTIFICATE_REFUSED, problem
    if any(_says_ready(context, worker.id) for worker in context.groups.serving):
        return "False", Reason.UNREACHABLE, f"{', '.join(unserved)} reaches no ready worker"
    if cause is not None:
        return "False", cause.reason, cause.message
    if context.target.replicas == 0 and not context.groups.serving:
        is_woken = context.seen.deployment.scaling.is_woken_by_requests
        waits = ", and requests wait until it is raised" if is_woken else ""
        return "False", Reason.SCALED_TO_ZERO, f"{SCALED_TO_ZERO}{waits}"
    reason = Reason.WAKING if context.is_proven else Reason.STARTING
    progress = f"{cold.phase}, {cold.percent} %" if cold else "no worker is ready yet"
    return "False", reason, progress


def _what_wakes(context: PlanContext) -> str:
    if context.seen.deployment.scaling.mode == "Auto":
        return "the first request wakes one"
    return "requests wait until spec.scaling.replicas is raised, which starts one"


def _computed_by(context: PlanContext) -> str:
    """What the ready workers say of how they compute the model, in brackets."""
    ready = (w for w in context.groups.serving if w.uid in context.groups.ready)
    said = (context.signals.stats.get(worker.id) for worker in ready)
    paths = sorted({stats.computed_by for stats in said if stats is not None} - {""})
    return f" ({'; '.join(paths)})" if paths else ""


def _is_served(context: PlanContext, gateway: GatewayReport) -> bool:
    return any(
        worker.id in gateway.reachable and _says_ready(context, worker.id)
        for worker in context.groups.serving
    )


def _says_ready(context: PlanContext, worker_id: str) -> bool:
    stats = context.signals.stats.get(worker_id)
    return stats is not None and stats.state is WorkerState.READY


def _reconciling(context: PlanContext, cause: Cause | None) -> Finding:
    """False while stalled: kstatus takes the first of the two that is true."""
    groups, target = context.groups, context.target
    if cause is not None:
        if cause.is_lasting:
            return "False", Reason.STALLED, "it does not get further by itself"
        return "True", cause.reason, cause.message
    ending = _draining_or_stopping(context)
    old_ending = sum(w.revision != context.revision for w in ending)
    if groups.old or old_ending:
        done = f"{groups.ready_current} of {_replicas(target.replicas)} of the new revision ready"
        left = f"{len(groups.old)} of an old one serve, {old_ending} drain or stop"
        waits = f"; {context.changes.rollout.waits}" if context.changes.rollout.waits else ""
        return "True", Reason.ROLLOUT, f"{done}, {left}{waits}"
    if interrupted := [w for w in context.seen.workers if w.notice and w.failure is None]:
        said = "; ".join(
            f"{w.name}: {describe(w.notice, ends_at(w, context))}" for w in interrupted if w.notice
        )
        done = f"{groups.ready_current} of {_replicas(target.replicas)} ready beside them"
        return "True", Reason.INTERRUPTED, f"{done}: {said}"
    if groups.ready_current < len(groups.current) or context.changes.missing:
        return (
            "True",
            Reason.SCALING_UP if context.is_proven else Reason.STARTING,
            f"{groups.ready_current} of {_replicas(target.replicas)} ready: {target.reason}",
        )
    if ending:
        return "True", Reason.SCALING_DOWN, f"{len(ending)} draining: {target.reason}"
    return "False", Reason.AS_DESIRED, f"{_replicas(target.replicas)} wanted: {target.reason}"


def _draining_or_stopping(context: PlanContext) -> list[Worker]:
    """Those that drain or stop, and those that this plan drains or stops."""
    serving = {worker.uid for worker in context.groups.serving}
    return [
        worker
        for worker in context.seen.workers
        if worker.uid not in serving and worker.failure is None and not worker.is_lost(context.now)
    ]


def _stalled(cause: Cause | None) -> Finding:
    if cause is not None and cause.is_lasting:
        return "True", cause.reason, cause.message
    return "False", Reason.PROGRESSING, "nothing is in the way"


def _placement_limited(context: PlanContext) -> Finding:
    is_limited, reason, message = placement_limits(context)
    return "True" if is_limited else "False", reason, message


def _name_conflict(seen: Observed) -> Finding:
    """Who had a short name first keeps it (names.owners); all are reachable by their full names."""
    deployment = seen.deployment
    taken = {
        name: owner
        for name in deployment.served_names
        if (owner := seen.owners.get(name, deployment.key)) != deployment.key
    }
    if not taken:
        return "False", Reason.NO_CONFLICT, "every served name is its own"
    words = "; ".join(f"{name!r} belongs to {o}, which had it first" for name, o in taken.items())
    message = f"{words}: ask for {deployment.key!r} instead"
    if any(namespace_of(owner) != deployment.namespace for owner in taken.values()):
        message += (
            "; to take it over after it was given up there, remove it from spec.model.servedNames "
            "and add it again"
        )
    return "True", Reason.NAME_TAKEN, message


def _cold_start(context: PlanContext) -> ColdStartProgress | None:
    """The worker that will be ready next; None if nothing is on its way."""
    memory = context.memory
    known = memory.was_ready | context.groups.ready
    coming = [_progress(context, w) for w in context.groups.serving if w.uid not in known]
    if coming:
        found = max(coming, key=lambda cold: cold.percent)
    elif not context.changes.missing or context.seen.deployment.error:
        return None
    else:
        start_at = context.changes.start_at
        learned = start_at + expected_cold_start(memory, context.placement.accelerator)
        found = ColdStartProgress(
            phase="BackOff" if start_at > context.now else "Starting",
            eta=learned if learned > context.now else 0.0,
        )
    return replace(
        found, since=memory.waking_since, deadline=deadline_of(context.seen.deployment, memory)
    )


def _progress(context: PlanContext, worker: Worker) -> ColdStartProgress:
    memory, now = context.memory, context.now
    said = memory.loading.get(worker.uid, ((PHASES[0], worker.created),))
    phases = wake_phases(worker, said[1:])
    learned = worker.created + expected_cold_start(memory, worker.accelerator)
    expected = learned if learned > max(now, worker.created) else 0.0
    stats, problem = context.signals.stats.get(worker.id), worker.problem
    if problem is not None and problem.is_shown(now) and (stats is None or not stats.phase):
        # A node may come, as it did the last time; of other problems nobody knows when they end.
        eta = expected if problem.reason is Reason.UNSCHEDULABLE else 0.0
        return ColdStartProgress(phase="Pending", eta=eta, phases=phases)
    load = estimate_load(
        said,
        memory.phase_seconds,
        now,
        said_percent=stats.percent if stats else 0.0,
        said_eta=stats.eta if stats else 0.0,
    )
    return ColdStartProgress(
        phase=said[-1][0], percent=load.percent, eta=load.eta or expected, phases=phases
    )


def _replicas(count: int) -> str:
    return f"{count} replica" if count == 1 else f"{count} replicas"

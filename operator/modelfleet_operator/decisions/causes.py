"""What is in the way of a deployment, if anything: the one cause that its conditions name."""

from __future__ import annotations

from dataclasses import dataclass

from .capacity import ON_DEMAND, SPOT
from .cold_start import furthest
from .memory import FAILURES_UNTIL_STALLED
from .observed import Worker
from .placement import SPOT_SUFFIX, place_name
from .plan_context import PlanContext
from .reasons import Reason
from .rendering import show_time
from .startup_problem import StartupProblem
from .status import Truth

SCALED_TO_ZERO = "spec.scaling.replicas is 0, so nothing serves"
_ADVICE = {
    Reason.OUT_OF_MEMORY: ": give workers more memory (spec.podTemplate), or lower "
    "spec.engine.kvCacheMemory",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why a deployment is not where it should be, beyond the time that things take."""

    reason: Reason
    message: str
    is_lasting: bool  # it will hardly pass by itself: Stalled


def find_cause(context: PlanContext) -> Cause | None:
    """The first of: the spec, the accelerator classes, a refusal, a pod's problem, failures."""
    deployment = context.seen.deployment
    if deployment.error:
        return Cause(reason=deployment.error_reason, message=deployment.error, is_lasting=True)
    if not context.placement.is_possible:
        reason, message = _why_impossible(context)
        return Cause(reason=reason, message=message, is_lasting=True)
    if deployment.refusal is not None and context.changes.missing:
        refusal = deployment.refusal
        return Cause(reason=refusal.reason, message=refusal.message, is_lasting=True)
    cause = (
        _startup_problem(context)
        or _refused_certificate(context)
        or _given_up(context)
        or _failures(context)
        or _minimum_above_budget(context)
    )
    if context.is_overdue and (cause is None or not cause.is_lasting):
        return _overdue(context, cause)
    return cause


def _overdue(context: PlanContext, cause: Cause | None) -> Cause:
    """It goes on all the same: a worker that becomes ready late serves."""
    deadline = context.seen.deployment.cold_start_deadline
    coming = furthest(context.groups.serving, context.memory)
    if coming is None:
        where = "no worker could be started"
    else:
        worker, phases = coming
        # A duration would be another message, to every gateway, whenever it is looked at.
        since = show_time(phases[-1].began)
        where = f"{worker.name} has been in phase {phases[-1].phase} since {since}"
    why = f" ({cause.message})" if cause is not None else ""
    return Cause(
        reason=Reason.COLD_START_TIMEOUT,
        message=f"no worker is ready {deadline:g} s after the first was wanted "
        f"(spec.coldStart.deadline): {where}{why}",
        is_lasting=True,
    )


def why_nothing_comes(context: PlanContext, cause: Cause | None) -> str:
    """Why a request would wait in vain, for clients; empty: a worker is ready, or one may come.

    Its load failed three times -> "LoadFailed: workers failed 3 times in a row: no config.json"; it
    failed once -> empty: the next may load. Nothing runs, and a request would wake one -> empty.
    """
    groups, target = context.groups, context.target
    if groups.ready or context.is_asleep or context.is_previous_asleep:
        return ""
    if groups.old or context.changes.start_old:
        return ""  # another revision than the one that is in trouble
    if cause is not None:
        fails = context.memory.failures.count >= FAILURES_UNTIL_STALLED
        may_come = _may_get_ready(context) and not (fails or context.is_overdue)
        if not cause.is_lasting or may_come:
            return ""
        return f"{cause.reason.value}: {cause.message}"
    is_woken = context.seen.deployment.scaling.is_woken_by_requests
    if target.replicas == 0 and not groups.serving and not is_woken:
        return f"{Reason.SCALED_TO_ZERO.value}: {SCALED_TO_ZERO}"
    return ""


def _may_get_ready(context: PlanContext) -> bool:
    """Whether a worker is on its way and nothing is known to be in its way."""
    return any(
        worker.problem is None or not worker.problem.is_shown(context.now)
        for worker in context.groups.serving
    )


def placement_limits(context: PlanContext) -> tuple[bool, Reason, str]:
    """Whether new workers cannot go where they were asked to go first, and why."""
    placement = context.placement
    deployment = context.seen.deployment
    policy = deployment.spot
    may_be_spot = policy is not None and policy.policy != "Never"
    if not deployment.accelerators and not may_be_spot:
        return False, Reason.AS_ASKED, "spec.placement asks for no accelerator class"
    limits = [_why_missing(placement.missing)] if placement.missing else []
    limits += [f"{name} is short: {placement.shortages[name].why}" for name in placement.short]
    limits += [
        f"{name} was taken back lately" for name in placement.avoided if name not in placement.short
    ]
    did_not_fit = context.memory.placement.misfits
    misfits = [f"{name}: {why}" for name, why in placement.excluded if name in did_not_fit]
    uncompared = _why_not_compared(context)
    limits += [*misfits, *uncompared]
    where = _where(context)
    if not limits:
        return False, Reason.AS_ASKED, where
    limits += [where] if where else []
    reason = Reason.ACCELERATOR_SHORT
    if placement.missing:
        reason = Reason.ACCELERATOR_CLASS_MISSING
    elif misfits:
        reason = Reason.MODEL_DOES_NOT_FIT
    elif uncompared and not placement.short and not placement.avoided:
        reason = Reason.CLASS_NOT_COMPARED
    elif may_be_spot and all(name.endswith(SPOT_SUFFIX) for name in placement.short):
        reason = Reason.SPOT_SHORT
    return True, reason, "; ".join(limits)


def _why_impossible(context: PlanContext) -> tuple[Reason, str]:
    placement = context.placement
    if not placement.excluded:
        return Reason.ACCELERATOR_CLASS_MISSING, _why_missing(placement.missing)
    each = "; ".join(f"{name}: {why}" for name, why in placement.excluded)
    missing = f"; {_why_missing(placement.missing)}" if placement.missing else ""
    return (
        Reason.MODEL_DOES_NOT_FIT,
        f"no accelerator class of spec.placement.accelerators can hold the model: {each}{missing}",
    )


def _why_not_compared(context: PlanContext) -> list[str]:
    """Why classes come after the others, as they are listed, whatever they cost."""
    if context.choice is None:
        return []
    ranking = context.choice.ranking
    if ranking.problem:
        return [f"the classes stay in their order, since {ranking.problem}"]
    lacks = {name: why for (name, _), why in ranking.unrated}
    return [f"{name} is not compared: {why}" for name, why in lacks.items()]


def _where(context: PlanContext) -> str:
    """Where new workers go, or what they wait for; empty: none can be made."""
    placement, policy = context.placement, context.seen.deployment.spot
    if not placement.is_possible:
        return ""
    on_spot = policy is not None and policy.policy != "Never" and not placement.spot_is_short
    capacity = SPOT if on_spot else ON_DEMAND
    name = place_name(placement.class_for(capacity), capacity)
    verb = "wait for" if name in placement.short else "go to"
    return f"new workers {verb} {name or 'nodes on demand'}"


def _minimum_above_budget(context: PlanContext) -> Cause | None:
    """The minimum runs all the same: only a person can say which of the two is meant."""
    budget, minimum = context.budget, context.seen.deployment.scaling.min_replicas
    if budget.limit is None or budget.price is None or budget.minimum <= budget.limit:
        return None
    each = f" at {budget.price:f}" if minimum * budget.price == budget.minimum else ""
    return Cause(
        reason=Reason.MINIMUM_ABOVE_BUDGET,
        message=f"spec.scaling.minReplicas {minimum}{each} make "
        f"{budget.minimum:f} an hour, above maxHourlyCost {budget.limit:f}: raise it, or "
        "lower minReplicas",
        is_lasting=True,
    )


def budget_limits(context: PlanContext) -> tuple[Truth, Reason, str]:
    """Whether workers are missing because of spec.scaling.maxHourlyCost, and which."""
    budget, target = context.budget, context.target
    if budget.limit is None and budget.problem:
        return "Unknown", Reason.PRICE_UNKNOWN, f"status.cost is not known: {budget.problem}"
    if budget.limit is None:
        return "False", Reason.WITHIN_BUDGET, "spec.scaling.maxHourlyCost sets no limit"
    if budget.problem:
        words = f"spec.scaling.maxHourlyCost limits nothing: {budget.problem}"
        return "Unknown", Reason.PRICE_UNKNOWN, words
    above = _minimum_above_budget(context)
    if above is not None:
        return "True", above.reason, above.message
    delayed = max(target.wished - target.demand, 0) + context.changes.unpaid
    if not delayed:
        return "False", Reason.WITHIN_BUDGET, budget.words()
    which = "1 worker that is wanted does" if delayed == 1 else f"{delayed} wanted workers do"
    return "True", Reason.BUDGET_REACHED, f"{budget.words()}: {which} not start"


def _why_missing(missing: tuple[str, ...]) -> str:
    return (
        f"there is no AcceleratorClass {' or '.join(missing)}: create it, or correct "
        "spec.placement.accelerators"
    )


def _startup_problem(context: PlanContext) -> Cause | None:
    """Of several workers' problems a lasting one, and of these the oldest."""
    causes = [
        (not _is_lasting(context, worker.problem), worker.problem.since, worker, worker.problem)
        for worker in context.groups.serving
        if worker.problem is not None and worker.problem.is_shown(context.now)
    ]
    if not causes:
        return None
    is_passing, _, worker, problem = min(causes, key=lambda cause: cause[:2])
    return Cause(
        reason=problem.reason,
        message=_message(context, worker, problem),
        is_lasting=not is_passing,
    )


def _is_lasting(context: PlanContext, problem: StartupProblem) -> bool:
    if problem.reason is Reason.UNSCHEDULABLE and context.seen.deployment.accelerators:
        # Each worker that moves to another class begins to wait anew.
        stalls_at = context.placement.stalls_at
        return stalls_at is not None and stalls_at <= context.now
    return problem.is_lasting(context.now)


def _message(context: PlanContext, worker: Worker, problem: StartupProblem) -> str:
    if problem.reason is not Reason.UNSCHEDULABLE or not worker.accelerator:
        return f"{worker.name}: {problem.message}"
    others = [
        f"; {name} is short: {shortage.why}"
        for name, shortage in context.placement.shortages.items()
        if name != worker.accelerator
    ]
    wanted = f"{worker.name} waits for accelerator class {worker.accelerator}"
    return f"{wanted}: {problem.message}{''.join(others)}"


def _refused_certificate(context: PlanContext) -> Cause | None:
    """None of its workers can be spoken to without it, and another try needs the operator only."""
    message = certificate_problem(context)
    if not message:
        return None
    return Cause(reason=Reason.CERTIFICATE_REFUSED, message=message, is_lasting=False)


def certificate_problem(context: PlanContext) -> str:
    """Of the first worker that a gateway reaches and does not trust, or is not trusted by."""
    for worker in context.groups.serving:
        if problem := context.signals.tls_problem(worker.id):
            return f"{worker.name}: no connection with TLS: {problem}"
    return ""


def _given_up(context: PlanContext) -> Cause | None:
    revision = context.revision
    if context.memory.given_up != revision:
        return None
    error = context.memory.failures.error or "a worker of it did not start"
    return Cause(
        reason=Reason.ROLLOUT_STUCK,
        message=f"revision {revision} gave its place back to revision {context.previous_revision}, "
        f"since spec.rollout.maxSurge has no other for it; another change tries again: {error}",
        is_lasting=True,
    )


def _failures(context: PlanContext) -> Cause | None:
    failures, groups = context.memory.failures, context.groups
    is_lasting = failures.count >= FAILURES_UNTIL_STALLED
    is_whole = groups.ready_current == len(groups.current) and not context.changes.missing
    if not failures.count or (is_whole and not is_lasting):
        return None
    is_loop = is_lasting and failures.reason is Reason.WORKER_FAILED
    return Cause(
        reason=Reason.CRASH_LOOP if is_loop else failures.reason,
        message=f"{_times(failures.count)}: {failures.error}{_ADVICE.get(failures.reason, '')}",
        is_lasting=is_lasting,
    )


def _times(count: int) -> str:
    return "a worker failed once" if count == 1 else f"workers failed {count} times in a row"

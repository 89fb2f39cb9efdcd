"""What is in the way of a deployment, if anything: the one cause that its conditions name."""

from __future__ import annotations

from dataclasses import dataclass

from .observed import Worker
from .outlook import Outlook
from .reasons import Reason
from .trouble import Trouble

STALLED_AFTER = 3  # failures in a row

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


def find_cause(outlook: Outlook) -> Cause | None:
    """The first of: the spec, the accelerator classes, a refusal, a pod's trouble, failures."""
    deployment = outlook.seen.deployment
    if deployment.error:
        return Cause(reason=deployment.error_reason, message=deployment.error, is_lasting=True)
    if not outlook.placement.is_possible:
        return Cause(
            reason=Reason.ACCELERATOR_CLASS_MISSING,
            message=_why_missing(outlook.placement.missing),
            is_lasting=True,
        )
    if deployment.refusal is not None and outlook.missing:
        refusal = deployment.refusal
        return Cause(reason=refusal.reason, message=refusal.message, is_lasting=True)
    return _trouble(outlook) or _given_up(outlook) or _failures(outlook)


def placement_limits(outlook: Outlook) -> tuple[bool, Reason, str]:
    """Whether new workers cannot go where they were asked to go first, and why."""
    placement = outlook.placement
    asked = outlook.seen.deployment.accelerators
    if not asked:
        return False, Reason.AS_ASKED, "spec.placement asks for no accelerator class"
    limits = [_why_missing(placement.missing)] if placement.missing else []
    limits += [f"{name} is short: {placement.shortages[name].why}" for name in placement.short]
    where = []
    if placement.accelerator:
        verb = "wait for" if placement.accelerator in placement.short else "go to"
        where = [f"new workers {verb} {placement.accelerator}"]
    if not limits:
        return False, Reason.AS_ASKED, where[0]
    reason = Reason.ACCELERATOR_CLASS_MISSING if placement.missing else Reason.ACCELERATOR_SHORT
    return True, reason, "; ".join([*limits, *where])


def _why_missing(missing: tuple[str, ...]) -> str:
    return (
        f"there is no AcceleratorClass {' or '.join(missing)}: create it, or correct "
        "spec.placement.accelerators"
    )


def _trouble(outlook: Outlook) -> Cause | None:
    """Of several workers' troubles what needs somebody, and of these the oldest."""
    causes = [
        (not _is_lasting(outlook, worker.trouble), worker.trouble.since, worker, worker.trouble)
        for worker in outlook.census.serving
        if worker.trouble is not None and worker.trouble.is_told(outlook.now)
    ]
    if not causes:
        return None
    is_passing, _, worker, trouble = min(causes, key=lambda cause: cause[:2])
    return Cause(
        reason=trouble.reason,
        message=_message(outlook, worker, trouble),
        is_lasting=not is_passing,
    )


def _is_lasting(outlook: Outlook, trouble: Trouble) -> bool:
    if trouble.reason is Reason.UNSCHEDULABLE and outlook.seen.deployment.accelerators:
        # Each worker that moves to another class begins to wait anew.
        stalls_at = outlook.placement.stalls_at
        return stalls_at is not None and stalls_at <= outlook.now
    return trouble.needs_somebody(outlook.now)


def _message(outlook: Outlook, worker: Worker, trouble: Trouble) -> str:
    if trouble.reason is not Reason.UNSCHEDULABLE or not worker.accelerator:
        return f"{worker.name}: {trouble.message}"
    others = [
        f"; {name} is short: {shortage.why}"
        for name, shortage in outlook.placement.shortages.items()
        if name != worker.accelerator
    ]
    wanted = f"{worker.name} waits for accelerator class {worker.accelerator}"
    return f"{wanted}: {trouble.message}{''.join(others)}"


def _given_up(outlook: Outlook) -> Cause | None:
    revision = outlook.seen.deployment.revision
    if outlook.memory.given_up != revision:
        return None
    error = outlook.memory.failures.error or "a worker of it did not start"
    return Cause(
        reason=Reason.ROLLOUT_STUCK,
        message=f"revision {revision} gave its place back to revision {outlook.serving_revision}, "
        f"since spec.rollout.maxSurge has no other for it; another change tries again: {error}",
        is_lasting=True,
    )


def _failures(outlook: Outlook) -> Cause | None:
    failures, census = outlook.memory.failures, outlook.census
    is_lasting = failures.count >= STALLED_AFTER
    is_whole = census.ready_current == len(census.current) and not outlook.missing
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

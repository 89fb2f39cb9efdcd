"""What happens to the fleet, in plain words: one line per event."""

from __future__ import annotations

from ..decisions.actions import Claim, Create, Remove, Stop
from ..decisions.announcements import announce
from ..decisions.memory_update import ERROR_LENGTH
from ..decisions.observed import Deployment, Worker
from ..decisions.plan import Plan
from ..decisions.reasons import Reason
from ..decisions.status import ScalingEvent, Status

_TOLD_EVENTS = frozenset(
    {"RevisionChanged", "RolledOut", "PlacementChosen", Reason.NAME_TAKEN.value}
)
STEP = 25  # percent of loading between two lines


def narrate(
    deployment: Deployment,
    workers: tuple[Worker, ...],
    before: Status | None,
    plan: Plan,
    now: float,
    *,
    tells_progress: bool = True,
) -> list[str]:
    """What a person should hear of this plan, given the status before it.

    `tells_progress` is False where a bar shows how far loading is.
    """
    return [
        *_failures(before, plan, now),
        *_scaling(deployment, before, plan),
        *_as_events(before, plan.status),
        *(_progress(before, plan.status) if tells_progress else ()),
        *_conditions(deployment, workers, before, plan.status, now),
    ]


def _failures(before: Status | None, plan: Plan, now: float) -> list[str]:
    """One line for each worker that failed; of failures in a row only the first says why."""
    stalled = plan.status.condition("Stalled")
    was_stalled = before.condition("Stalled") if before else None
    becomes_stalled = stalled.status == "True" and (
        was_stalled is None or (was_stalled.status, was_stalled.reason) != ("True", stalled.reason)
    )
    told = [condition.message for condition in before.conditions] if before else []
    next_step = _next_step(plan, now)
    lines = []
    for action in plan.actions:
        if isinstance(action, Remove):
            verb, why = "exited", action.worker.failure or ""
        elif isinstance(action, Stop) and action.worker.uid in plan.memory.failures.counted:
            verb, why = "failed", action.reason
        else:
            continue
        kept = why[:ERROR_LENGTH]
        if becomes_stalled and kept and kept in stalled.message:
            continue  # the line about that says it
        if kept and any(kept in message for message in told):
            line = f"worker {verb} again, {plan.memory.failures.count} in a row"
        else:
            line = f"worker {verb} ({why})"
        lines.append(f"{line}: {next_step}" if next_step else line)
    if becomes_stalled:
        lines.append(f"stalled: {stalled.message}" + (f"; {next_step}" if next_step else ""))
    return lines


def _next_step(plan: Plan, now: float) -> str:
    if any(isinstance(action, Claim | Create) for action in plan.actions):
        return "replaced"
    cold = plan.status.cold_start
    if cold is None or cold.phase != "BackOff":
        return ""
    wait = max(plan.wake_at - now, 0) if plan.wake_at else 0
    return f"next try in {wait:.0f} s"


def _scaling(deployment: Deployment, before: Status | None, plan: Plan) -> list[str]:
    history = plan.status.scaling_history
    if not history or (before is not None and before.scaling_history[-1:] == history[-1:]):
        return []
    step = history[-1]
    if step.after == 0:
        return []  # the line about falling asleep says it
    if step.before == 0 and plan.memory.last_ready_revision == deployment.revision:
        return [f"waking ({_waiting(plan.status)})"]
    if step.before == 0:
        return [f"starting {_workers(step.after)} ({step.reason})"]
    return [f"{_direction(step)} from {step.before} to {_workers(step.after)} ({step.reason})"]


def _direction(step: ScalingEvent) -> str:
    return "growing" if step.after > step.before else "shrinking"


def _progress(before: Status | None, status: Status) -> list[str]:
    cold, last = status.cold_start, before.cold_start if before else None
    if cold is None or cold.phase in ("Starting", "BackOff"):
        return []
    if cold.phase == "Pending":
        was_pending = last is not None and last.phase == "Pending"
        return [] if was_pending else ["a worker cannot start yet"]
    told = last.percent // STEP if last is not None and last.phase == cold.phase else -1
    if cold.percent // STEP == told:
        return []
    return [f"loading {cold.percent} % ({cold.phase.lower()})"]


def _conditions(
    deployment: Deployment,
    workers: tuple[Worker, ...],
    before: Status | None,
    status: Status,
    now: float,
) -> list[str]:
    lines = []
    ready = status.condition("Ready")
    was_ready = before.condition("Ready").reason if before else ""
    if ready.reason == "Asleep" and was_ready != "Asleep":
        lines.append(f"asleep after {deployment.scaling.idle_timeout:g} s idle")
    if before is not None and status.ready_replicas > before.ready_replicas == 0:
        born = min((w.created for w in workers if w.failure is None), default=now)
        lines.append(f"ready in {now - born:.1f} s")
    if ready.reason == "Unreachable" != was_ready:
        lines.append(ready.message)
    return lines


def _as_events(before: Status | None, status: Status) -> list[str]:
    """What a cluster's Events say of a rollout and of names."""
    return [a.note for a in announce(before, status) if a.reason in _TOLD_EVENTS]


def _waiting(status: Status) -> str:
    count = status.queue.waiting if status.queue else 0
    return "1 request waits" if count == 1 else f"{count} requests wait"


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"

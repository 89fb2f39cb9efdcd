"""What is worth an Event: the difference between two statuses, told once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from .reasons import Reason
from .rendering import show_time
from .status import Condition, ConditionType, ScalingEvent, Status

# Reasons of Reconciling when all goes well; any other one is an obstacle.
_ROUTINE = frozenset(
    {
        *(Reason.STARTING, Reason.SCALING_UP, Reason.SCALING_DOWN, Reason.ROLLOUT),
        *(Reason.AS_DESIRED, Reason.INTERRUPTED),  # each notice has an Event of its own
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """One Event on a ModelDeployment."""

    kind: Literal["Normal", "Warning"]
    reason: str  # one CamelCase word
    note: str


def announce(before: Status | None, after: Status) -> list[Announcement]:
    """Steps of scaling and of a rollout, obstacles that came or went, and readiness."""
    return [
        *_scaling(before, after),
        *_placement(before, after),
        *_rollout(before, after),
        *_interruptions(before, after),
        *_obstacles(before, after),
        *_flags(before, after),
        *_readiness(before, after),
    ]


def _scaling(before: Status | None, after: Status) -> Iterator[Announcement]:
    known = {_identity(step) for step in before.scaling_history} if before else set()
    for step in after.scaling_history:
        if _identity(step) not in known:
            up = step.after > step.before
            yield Announcement(
                kind="Normal",
                reason="ScaledUp" if up else "ScaledDown",
                note=f"from {step.before} to {step.after} replicas: {step.reason}",
            )


def _identity(step: ScalingEvent) -> tuple[int, int, int]:
    """A status that was read back knows whole seconds only."""
    return int(step.time), step.before, step.after


def _placement(before: Status | None, after: Status) -> Iterator[Announcement]:
    was, now = before.placement if before else None, after.placement
    if now is None:
        return
    place = (now.chosen.accelerator, now.chosen.capacity)
    if was is None or (was.chosen.accelerator, was.chosen.capacity) != place:
        yield Announcement(kind="Normal", reason="PlacementChosen", note=now.sentence())


def _rollout(before: Status | None, after: Status) -> Iterator[Announcement]:
    if before is None:
        return
    if after.revision != before.revision and before.revision:
        yield Announcement(
            kind="Normal",
            reason="RevisionChanged",
            note=f"revision {after.revision} follows {before.revision}",
        )
    was_rolling = _find(before, "Reconciling").reason == Reason.ROLLOUT
    if was_rolling and _find(after, "Reconciling").reason == Reason.AS_DESIRED:
        yield Announcement(
            kind="Normal",
            reason="RolledOut",
            note=f"every worker is of revision {after.revision}",
        )


def _interruptions(before: Status | None, after: Status) -> Iterator[Announcement]:
    known = {(i.worker, i.kind) for i in before.interruptions} if before else set()
    for told in after.interruptions:
        if (told.worker, told.kind) not in known:
            where = f" on node {told.node}" if told.node else ""
            by = f", by {show_time(told.deadline)}" if told.deadline else ""
            yield Announcement(
                kind="Warning",
                reason="Interruption",
                note=f"{told.worker}{where}: {told.kind}{by} ({told.source})",
            )


def _obstacles(before: Status | None, after: Status) -> Iterator[Announcement]:
    was, now = _obstacle(before), _obstacle(after)
    if now is not None and (was is None or (was.type, was.reason) != (now.type, now.reason)):
        yield Announcement(kind="Warning", reason=now.reason, note=now.message)
    elif was is not None and now is None:
        yield Announcement(kind="Normal", reason="Recovered", note=f"{was.reason} is over")


def _obstacle(status: Status | None) -> Condition | None:
    if status is None:
        return None
    stalled, under_way = _find(status, "Stalled"), _find(status, "Reconciling")
    if stalled.status == "True":
        return stalled
    return under_way if under_way.status == "True" and under_way.reason not in _ROUTINE else None


def _flags(before: Status | None, after: Status) -> Iterator[Announcement]:
    types: tuple[ConditionType, ...] = ("NameConflict", "PlacementLimited", "BudgetLimited")
    for type_ in types:
        was, now = before and _find(before, type_), _find(after, type_)
        if now.status == "True" and (not was or (was.status, was.reason) != ("True", now.reason)):
            yield Announcement(kind="Warning", reason=now.reason, note=now.message)
        elif was and was.status == "True" and now.status == "False":
            yield Announcement(kind="Normal", reason="Recovered", note=f"{was.reason} is over")


def _readiness(before: Status | None, after: Status) -> Iterator[Announcement]:
    was, now = before and _find(before, "Ready"), _find(after, "Ready")
    if now.status == "True" and not (was and was.status == "True"):
        yield Announcement(kind="Normal", reason="Ready", note=now.message)
    elif was and was.status == "True" and now.status != "True":
        routine = now.reason in {Reason.WAKING, Reason.STARTING, Reason.SCALED_TO_ZERO}
        yield Announcement(
            kind="Normal" if routine else "Warning",
            reason="NotReady",
            note=f"{now.reason}: {now.message}",
        )


def _find(status: Status, type_: ConditionType) -> Condition:
    """One that an older version did not write is unknown."""
    missing = Condition(
        type=type_, status="Unknown", reason="", message="", changed=0.0, generation=0
    )
    return next((c for c in status.conditions if c.type == type_), missing)

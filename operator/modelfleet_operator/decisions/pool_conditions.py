"""The status of a warm pool: what was observed, and what is in its way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from .memory import Failures
from .pool_observed import PoolObserved
from .pool_status import PoolCondition, PoolConditionType, PoolReason, PoolStatus
from .standby import Standby


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolMeans:
    """What the pool may have."""

    most: int | None = None  # standbys that its budget pays; None: no limit
    price: Decimal | None = None  # of one standby an hour
    may_start: bool = True
    problem: tuple[PoolReason, str] | None = None  # what a person must correct


def make_pool_status(
    seen: PoolObserved,
    means: PoolMeans,
    kept: Sequence[Standby],
    wanted: int,
    failures: Failures,
    previous: PoolStatus | None,
    now: float,
) -> PoolStatus:
    """`kept`: unclaimed and as the pool wants them; `wanted`: how many of these there should be.

    Size 3, 2 stand by, 1 starts -> Ready False, Filling: "2 of 3 stand by"; Reconciling True.
    """
    pool = seen.pool
    up = sum(s.is_up for s in kept)
    reason, message = PoolReason.FULL, f"{up} of {pool.size} stand by"
    if means.problem is not None:
        reason, message = means.problem
    elif up < wanted:
        obstacle = _find_obstacle(seen, kept, failures)
        reason = PoolReason.FILLING
        message = f"{message}: {obstacle}" if obstacle else message
    is_stalled = means.problem is not None
    is_changing = len(kept) != wanted or up < len(kept)

    def condition(
        type_: PoolConditionType, holds: bool, why: PoolReason, told: str
    ) -> PoolCondition:
        was = previous.condition(type_) if previous else None
        return PoolCondition(
            type=type_,
            holds=holds,
            reason=why.value,
            message=told,
            changed=was.changed if was and was.holds == holds else now,
            generation=pool.generation,
        )

    paid = sum(not s.claimed_by and s.placed_at is not None for s in seen.standbys)
    return PoolStatus(
        observed_generation=pool.generation,
        conditions=(
            condition("Ready", reason is PoolReason.FULL, reason, message),
            condition("Reconciling", is_changing and not is_stalled, reason, message),
            condition("Stalled", True, reason, message)
            if is_stalled
            else condition("Stalled", False, PoolReason.AS_DESIRED, ""),
        ),
        standby=up,
        starting=len(kept) - up,
        claimed=sum(bool(s.claimed_by) and s.failure is None for s in seen.standbys),
        hits=seen.counts.hits,
        misses=seen.counts.misses,
        seconds_saved=seen.counts.seconds_saved,
        hourly_cost=None if means.price is None else means.price * paid,
    )


def _find_obstacle(seen: PoolObserved, kept: Sequence[Standby], failures: Failures) -> str:
    """Why one does not come; empty: nothing is known to be in its way."""
    if seen.refusal:
        return seen.refusal
    for standby in kept:
        if standby.problem is not None:
            return f"{standby.name}: {standby.problem.message}"
    if failures.count:
        return f"{failures.count} in a row exited, the last one: {failures.error}"
    return ""

"""What a warm pool should do: refill, remove, stay within its budget, and say how it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from types import MappingProxyType

from .memory import STABLE, Failures
from .names import lowest_free
from .observed import Accelerator
from .pool_status import PoolCondition, PoolConditionType, PoolReason, PoolStatus
from .standby import Standby


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One WarmPool, reduced to what decisions need."""

    namespace: str
    name: str
    uid: str = ""
    generation: int = 0
    template: str  # hash of all that its standbys are started with
    size: int = 1
    accelerator: str = ""  # an AcceleratorClass; empty: none
    needs_class: bool = True  # whether `accelerator` must exist: on one machine it need not
    max_hourly_cost: Decimal | None = None
    missing_models: tuple[str, ...] = ()  # asked for, but there are no such ModelDeployments
    error: str = ""  # what its user must correct

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCounts:
    """What happened since the pool was created."""

    hits: int = 0
    misses: int = 0
    seconds_saved: float = 0.0

    def plus(self, other: PoolCounts) -> PoolCounts:
        """The sums."""
        return PoolCounts(
            hits=self.hits + other.hits,
            misses=self.misses + other.misses,
            seconds_saved=self.seconds_saved + other.seconds_saved,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolObserved:
    """What a body sees of one pool, from its caches."""

    pool: Pool
    standbys: tuple[Standby, ...] = ()  # claimed ones, too
    accelerators: Mapping[str, Accelerator] = field(default_factory=lambda: MappingProxyType({}))
    counts: PoolCounts = PoolCounts()
    refusal: str = ""  # why the last standby could not be started; empty: one was


@dataclass(frozen=True, slots=True)
class AddStandby:
    """Start one. That it exists already is success: the name says everything."""

    name: str
    ordinal: int
    reason: str


@dataclass(frozen=True, slots=True)
class RemoveStandby:
    """End one, or clear away what is left of it; nothing happens if it was claimed meanwhile."""

    standby: Standby
    reason: str


PoolAction = AddStandby | RemoveStandby


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """A decision about one pool. `failures` goes back in with the next one."""

    actions: tuple[PoolAction, ...]
    status: PoolStatus
    failures: Failures
    wake_at: float | None  # when to decide again though nothing happened, Unix seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class _Means:
    """What the pool may have."""

    most: int | None = None  # standbys that its budget pays; None: no limit
    price: Decimal | None = None  # of one standby an hour
    may_start: bool = True
    problem: tuple[PoolReason, str] | None = None  # what a person must correct


def standby_name(pool: str, template: str, ordinal: int) -> str:
    """Deterministic, and never that of a deployment's worker, whose ordinals have no letter."""
    return f"{pool}-{template}-s{ordinal}"


def decide_pool(
    seen: PoolObserved, now: float, failures: Failures, previous: PoolStatus | None
) -> PoolPlan:
    """Brings the standbys to the pool's size, and leaves claimed ones alone.

    Size 3 at 2.50 an hour, maxHourlyCost 6, 1 stands by -> 1 is started, Stalled says that only 2
    are paid. Never more are there than the budget pays, those that still end included; the template
    changed -> all are removed, and others started as soon as there is money for them.
    """
    pool = seen.pool
    means = _find_means(seen)
    failures = _count_failures(seen, now, failures)
    kept = [s for s in seen.standbys if s.is_unclaimed and not _why_outdated(s, seen)]
    wanted = pool.size if means.most is None else min(pool.size, means.most)
    actions: list[PoolAction] = []
    for standby in seen.standbys:
        if not standby.claimed_by and not standby.stopping and standby.failure is not None:
            actions.append(RemoveStandby(standby, f"it exited: {standby.failure}"))
        elif standby.is_unclaimed and (why := _why_outdated(standby, seen)):
            actions.append(RemoveStandby(standby, why))
    surplus = sorted(kept, key=_usefulness)[: max(len(kept) - wanted, 0)]
    actions += [RemoveStandby(s, f"{len(kept)} stand by, {wanted} are wanted") for s in surplus]
    missing = 0
    if means.may_start and not surplus:
        missing = max(min(wanted - len(kept), _paid_room(seen, means)), 0)
    may_start_at = failures.retry_at if failures.count else 0.0
    if missing and may_start_at <= now:
        actions += _additions(seen, missing, wanted, len(kept))
    status = _make_status(seen, means, kept, wanted, failures, previous, now)
    return PoolPlan(
        actions=tuple(actions),
        status=status,
        failures=failures,
        wake_at=may_start_at if missing and may_start_at > now else None,
    )


def _find_means(seen: PoolObserved) -> _Means:
    pool = seen.pool
    if pool.error:
        return _Means(may_start=False, problem=(PoolReason.INVALID_SPEC, pool.error))
    found = seen.accelerators.get(pool.accelerator)
    if pool.accelerator and pool.needs_class and found is None:
        sentence = (
            f"there is no AcceleratorClass {pool.accelerator}: create it, or correct "
            "spec.accelerator"
        )
        problem = (PoolReason.ACCELERATOR_CLASS_MISSING, sentence)
        return _Means(may_start=False, problem=problem)
    price = found.price if found else None
    limit = pool.max_hourly_cost
    missing = None
    if pool.missing_models:
        names = " and ".join(pool.missing_models)
        sentence = (
            f"spec.models names {names}, and there is no such ModelDeployment in this namespace: "
            "create it, or correct spec.models"
        )
        missing = (PoolReason.MODEL_MISSING, sentence)
    if limit is None:
        return _Means(price=price, problem=missing)
    if price is None:
        whose = f"AcceleratorClass {pool.accelerator}" if pool.accelerator else "a pool without one"
        sentence = (
            f"there is no price for {whose}, so spec.maxHourlyCost cannot be kept and none is "
            "started: give the class a price, or remove maxHourlyCost"
        )
        return _Means(may_start=False, problem=(PoolReason.PRICE_MISSING, sentence))
    most = pool.size if price == 0 else min(math.floor(limit / price), pool.size)
    if most >= pool.size:
        return _Means(most=most, price=price, problem=missing)
    sentence = (
        f"spec.size {pool.size} at {price:f} an hour costs {pool.size * price:f}, above "
        f"spec.maxHourlyCost {limit:f}: {most} are kept; lower the size or raise the budget"
    )
    return _Means(most=most, price=price, problem=(PoolReason.BUDGET_TOO_SMALL, sentence))


def _paid_room(seen: PoolObserved, means: _Means) -> int:
    """How many more the budget pays now: what still ends holds its node until it is gone."""
    if means.most is None:
        return seen.pool.size
    held = sum(not s.claimed_by and s.failure is None for s in seen.standbys)
    return means.most - held


def _why_outdated(standby: Standby, seen: PoolObserved) -> str:
    """Empty: it is as the pool would start it now."""
    pool = seen.pool
    if pool.error:
        return ""
    if standby.template != pool.template or standby.accelerator != pool.accelerator:
        return "standbys of this pool are started otherwise now"
    wanted = seen.accelerators.get(pool.accelerator)
    if wanted is not None and wanted.generation != standby.accelerator_generation:
        return f"accelerator class {pool.accelerator} was changed"
    return ""


def _usefulness(standby: Standby) -> tuple[bool, bool, float, int]:
    """Those that wait for a node go first, then the youngest."""
    return (standby.is_up, standby.placed_at is not None, -standby.created, -standby.ordinal)


def _additions(seen: PoolObserved, missing: int, wanted: int, kept: int) -> Iterator[AddStandby]:
    """With the lowest ordinals that are free; a claimed standby keeps its name, and so its own."""
    pool = seen.pool
    taken = {s.ordinal for s in seen.standbys if s.template == pool.template}
    for _ in range(missing):
        ordinal = lowest_free(taken)
        taken.add(ordinal)
        name = standby_name(pool.name, pool.template, ordinal)
        yield AddStandby(name, ordinal, f"{kept} of {wanted} are there")


def _count_failures(seen: PoolObserved, now: float, before: Failures) -> Failures:
    """In a row; none any more once one stands by and nothing failed for a minute."""
    failed = {
        s.uid: s.failure or "" for s in seen.standbys if not s.claimed_by and s.failure is not None
    }
    new = [why for uid, why in failed.items() if uid not in before.counted]
    if new:
        return Failures(
            count=before.count + len(new),
            last_at=now,
            error=new[-1],
            counted=frozenset(failed),
        )
    is_stable = now - before.retry_at >= STABLE
    if before.count and is_stable and any(s.is_unclaimed and s.is_up for s in seen.standbys):
        return Failures(counted=frozenset(failed))
    return replace(before, counted=frozenset(failed))


def _make_status(
    seen: PoolObserved,
    means: _Means,
    kept: list[Standby],
    wanted: int,
    failures: Failures,
    previous: PoolStatus | None,
    now: float,
) -> PoolStatus:
    pool = seen.pool
    up = sum(s.is_up for s in kept)
    words = f"{up} of {pool.size} stand by"
    obstacle = _find_obstacle(seen, kept, failures)
    stalled = means.problem
    if stalled is not None:
        ready, reconciling = (False, *stalled), (False, *stalled)
    elif up >= wanted:
        ready = reconciling = (True, PoolReason.FULL, words)
    else:
        message = f"{words}: {obstacle}" if obstacle else words
        ready = reconciling = (False, PoolReason.FILLING, message)
    is_changing = len(kept) != wanted or up < len(kept)
    found: tuple[tuple[PoolConditionType, bool, PoolReason, str], ...] = (
        ("Ready", *ready),
        ("Reconciling", is_changing and stalled is None, reconciling[1], reconciling[2]),
        (
            "Stalled",
            stalled is not None,
            stalled[0] if stalled else PoolReason.AS_DESIRED,
            stalled[1] if stalled else "",
        ),
    )
    paid = sum(not s.claimed_by and s.placed_at is not None for s in seen.standbys)
    return PoolStatus(
        observed_generation=pool.generation,
        conditions=tuple(_condition(previous, pool.generation, now, *one) for one in found),
        standby=up,
        starting=len(kept) - up,
        claimed=sum(bool(s.claimed_by) and s.failure is None for s in seen.standbys),
        hits=seen.counts.hits,
        misses=seen.counts.misses,
        seconds_saved=seen.counts.seconds_saved,
        hourly_cost=None if means.price is None else means.price * paid,
    )


def _find_obstacle(seen: PoolObserved, kept: list[Standby], failures: Failures) -> str:
    """Why one does not come; empty: nothing is known to be in its way."""
    if seen.refusal:
        return seen.refusal
    for standby in kept:
        if standby.problem is not None:
            return f"{standby.name}: {standby.problem.message}"
    if failures.count:
        return f"{failures.count} in a row exited, the last one: {failures.error}"
    return ""


def _condition(
    previous: PoolStatus | None,
    generation: int,
    now: float,
    type_: PoolConditionType,
    holds: bool,
    reason: PoolReason,
    message: str,
) -> PoolCondition:
    was = previous.condition(type_) if previous else None
    return PoolCondition(
        type=type_,
        holds=holds,
        reason=reason.value,
        message=message,
        changed=was.changed if was and was.holds == holds else now,
        generation=generation,
    )

"""What a warm pool should do: refill, remove, stay within its budget, and say how it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .memory import STABLE, Failures
from .names import lowest_free
from .pool_conditions import PoolMeans, make_pool_status
from .pool_observed import PoolObserved
from .pool_status import PoolReason, PoolStatus
from .prices import current_prices
from .standby import Standby

# Seconds after a claim before another standby is started in its place: a process that starts takes
# the processor that the claimed one needs to load its model.
REFILL_PAUSE = 2.0

REPLACED = 10.0  # seconds after a claim, by when another one is on its way


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
    seen = _priced(seen, now)
    means = _find_means(seen)
    failures = _count_failures(seen, now, failures)
    kept = [s for s in seen.standbys if s.is_unclaimed and not _why_outdated(s, seen)]
    wanted = _wanted(seen, means)
    actions: list[PoolAction] = []
    for standby in seen.standbys:
        if not standby.claimed_by and not standby.stopping and standby.failure is not None:
            actions.append(RemoveStandby(standby, f"it exited: {standby.failure}"))
        elif standby.is_unclaimed and (why := _why_outdated(standby, seen)):
            actions.append(RemoveStandby(standby, why))
    surplus = sorted(kept, key=_usefulness)[: max(len(kept) - wanted, 0)]
    actions += [RemoveStandby(s, f"{len(kept)} stand by, {wanted} are wanted") for s in surplus]
    missing = 0
    claims = [s.claimed_at for s in seen.standbys if s.claimed_by]
    fresh = [at for at in claims if 0 <= now - at < REFILL_PAUSE]
    if means.may_start and not surplus:
        missing = max(min(wanted - len(kept), _paid_room(seen, means)), 0)
    may_start_at = failures.retry_at if failures.count else 0.0
    if missing and may_start_at <= now:
        actions += _additions(seen, max(missing - len(fresh), 0), wanted, len(kept))
    alarms = [at + REFILL_PAUSE for at in fresh] + [may_start_at]
    status = make_pool_status(seen, means, kept, wanted, failures, previous, now)
    return PoolPlan(
        actions=tuple(actions),
        status=status,
        failures=failures,
        wake_at=min((at for at in alarms if at > now), default=None) if missing else None,
    )


def count_on(seen: PoolObserved, now: float, sharing: int = 1) -> int:
    """How many standbys one of the `sharing` deployments may count on, instead of spare workers.

    Those that are on their way count, and those that were claimed just now, which are replaced:
    else each claim would ask for one more. Size 3, 1 stands by, 1 starts, 1 was claimed 2 s ago, 2
    deployments share it -> 1.
    """
    seen = _priced(seen, now)
    standbys = seen.standbys
    there = sum(s.is_unclaimed and s.problem is None and not s.leaves for s in standbys)
    claimed = sum(bool(s.claimed_by) and 0 <= now - s.claimed_at < REPLACED for s in standbys)
    return min(there + claimed, _wanted(seen, _find_means(seen))) // max(sharing, 1)


def _priced(seen: PoolObserved, now: float) -> PoolObserved:
    """With the prices of now."""
    priced = current_prices(seen.accelerators, (seen.pool.accelerator,), now)
    return seen if priced is seen.accelerators else replace(seen, accelerators=priced)


def _wanted(seen: PoolObserved, means: PoolMeans) -> int:
    return seen.pool.size if means.most is None else min(seen.pool.size, means.most)


def _find_means(seen: PoolObserved) -> PoolMeans:
    pool = seen.pool
    if pool.error:
        return PoolMeans(may_start=False, problem=(PoolReason.INVALID_SPEC, pool.error))
    found = seen.accelerators.get(pool.accelerator)
    if pool.accelerator and pool.needs_class and found is None:
        sentence = (
            f"there is no AcceleratorClass {pool.accelerator}: create it, or correct "
            "spec.accelerator"
        )
        problem = (PoolReason.ACCELERATOR_CLASS_MISSING, sentence)
        return PoolMeans(may_start=False, problem=problem)
    price = found.price if found else None
    limit = pool.max_hourly_cost
    missing = None
    if pool.missing_models:
        names = " and ".join(pool.missing_models)
        sentence = (
            f"the spec names {names}, and there is no such ModelDeployment in this namespace: "
            "create it, or correct spec.models or spec.loadedModel"
        )
        missing = (PoolReason.MODEL_MISSING, sentence)
    elif pool.why_not_loaded:
        missing = (PoolReason.MODEL_NOT_LOADED, pool.why_not_loaded)
    if limit is None:
        return PoolMeans(price=price, problem=missing)
    if price is None:
        whose = f"AcceleratorClass {pool.accelerator}" if pool.accelerator else "a pool without one"
        sentence = (
            f"there is no price for {whose}, so spec.maxHourlyCost cannot be kept and none is "
            "started: give the class a price, or remove maxHourlyCost"
        )
        return PoolMeans(may_start=False, problem=(PoolReason.PRICE_MISSING, sentence))
    most = pool.size if price == 0 else min(math.floor(limit / price), pool.size)
    if most >= pool.size:
        return PoolMeans(most=most, price=price, problem=missing)
    sentence = (
        f"spec.size {pool.size} at {price:f} an hour costs {pool.size * price:f}, above "
        f"spec.maxHourlyCost {limit:f}: {most} are kept; lower the size or raise the budget"
    )
    return PoolMeans(most=most, price=price, problem=(PoolReason.BUDGET_TOO_SMALL, sentence))


def _paid_room(seen: PoolObserved, means: PoolMeans) -> int:
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
    if standby.leaves:
        return f"its node is going to end: {standby.leaves}"
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

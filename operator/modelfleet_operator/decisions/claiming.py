"""Whether a start can be a claim: a worker that stands by in a warm pool becomes the new one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .actions import Claim, Create, Credit, Load
from .capacity import ON_DEMAND, SPOT
from .cold_start import expected_cold_start
from .memory import Memory
from .observed import Observed, WorkerState
from .placement import PlacementDecision
from .plan_context import PlanContext
from .spot import next_capacity
from .standby import NO_POOL, PoolOffer, Standby


def claim_or_create(context: PlanContext, create: Create, promised: set[str]) -> Claim | Create:
    """The start as a claim, if a pool has a standby for it.

    `promised`: uids of standbys that other starts of this plan try first; the claim's is added. All
    that fit are named, since other deployments claim, too: the first that is free is taken. Those
    that hold this very model come first, and last those that hold another one.

    tiny-a-1 to start on h100, the pool `gpus` of that class has two standbys -> a claim of the
    older one, or else the other. It has none -> a start that counts as a miss of `gpus`.
    """
    fitting = [offer for offer in usable_offers(context, create) if not offer.refusal]
    if not fitting:
        return create
    candidates = [
        (offer, s) for offer in fitting for s in offer.standbys if has_capacity(s, create.capacity)
    ]
    candidates.sort(key=lambda c: (c[1].uid in promised, _detour(context, c[0]), *_age(c[1])))
    standbys = [standby for _, standby in candidates]
    missed = replace(create, missed=fitting[0].pool)
    if all(s.uid in promised for s in standbys):
        return missed
    promised.add(standbys[0].uid)
    return Claim(candidates=tuple(standbys), create=missed, reason=create.reason)


def _detour(context: PlanContext, offer: PoolOffer) -> int:
    """How far its standbys are from serving this deployment."""
    if not offer.loaded_model:
        return 1
    return 0 if offer.loaded_model == context.seen.deployment.key else 2


def _age(standby: Standby) -> tuple[float, str]:
    return standby.created, standby.id


def usable_offers(context: PlanContext, create: Create) -> list[PoolOffer]:
    """Those of the pools that the deployment asks for whose class is the start's; by name.

    Workers of old revisions are always started: what such a revision needs is not known of pools.
    """
    deployment = context.seen.deployment
    if deployment.warm_pool == NO_POOL or create.revision != context.revision:
        return []
    return sorted(
        (
            offer
            for offer in context.seen.pools
            if offer.accelerator == create.accelerator and deployment.warm_pool in ("", offer.name)
        ),
        key=lambda offer: offer.pool,
    )


def count_standbys(seen: Observed, placement: PlacementDecision) -> int:
    """How many of the next starts may be claims.

    Standbys are taken to be on demand, which is where pools are: for the next worker on spot none.
    """
    wanted = seen.deployment.warm_pool
    if not seen.pools or wanted == NO_POOL or next_capacity(seen, placement) == SPOT:
        return 0
    accelerator = placement.accelerator
    return sum(
        offer.counted_on
        for offer in seen.pools
        if not offer.refusal and offer.accelerator == accelerator and wanted in ("", offer.name)
    )


def load_claimed(context: PlanContext) -> Iterator[Load]:
    """Claimed workers that say that they hold no model: the call was lost, or its sender ended."""
    stats = context.signals.stats
    for worker in context.groups.serving:
        told = stats.get(worker.id) if worker.claimed_from else None
        if (
            told is not None
            and told.state is WorkerState.STANDBY
            and worker.uid not in context.memory.was_ready
        ):
            yield Load(worker, "it was claimed and holds no model yet")


def credit_claims(context: PlanContext, before: Memory) -> Iterator[Credit]:
    """For each claimed worker that is ready for the first time what its pool has saved.

    A start takes 42 s, the claimed worker took 0.6 s -> 41.4 s.
    """
    for worker in context.groups.serving:
        is_new = worker.uid in context.groups.ready and worker.uid not in before.was_ready
        if not is_new or not worker.claimed_from:
            continue
        stats = context.signals.stats[worker.id]
        took = max((stats.ready_at or context.now) - worker.created, 0.0)
        usual = expected_cold_start(before, worker.accelerator)
        why = f"ready {took:.2f} s after its claim, a start takes {usual:.1f} s"
        yield Credit(worker, max(usual - took, 0.0), why)


def why_not_claimed(context: PlanContext, create: Create) -> str:
    """Why a start is none, for a person; empty: there are no pools for it."""
    offers = usable_offers(context, create)
    if offers:
        return "; ".join(
            f"pool {offer.name}: {offer.refusal or f'none stands by{_on(create.capacity)}'}"
            for offer in offers
        )
    wanted = context.seen.deployment.warm_pool
    if wanted in ("", NO_POOL) or create.revision != context.revision:
        return ""
    there = next((o for o in context.seen.pools if o.name == wanted), None)
    if there is None:
        return f"there is no WarmPool {wanted} in this namespace"
    return (
        f"pool {wanted} has workers of class {there.accelerator or 'none'}, and "
        f"{create.accelerator or 'no class'} is needed"
    )


def is_claimable(standby: Standby) -> bool:
    """Whether a deployment can have it now; one whose node is going to end would only move on."""
    is_free = standby.is_unclaimed and not standby.leaves
    return is_free and standby.is_up and bool(standby.address)


def has_capacity(standby: Standby, wanted: str) -> bool:
    """Whether it is on the capacity that a start asks for; empty: any.

    A node that says neither is on demand.
    """
    return not wanted or (standby.capacity or ON_DEMAND) == wanted


def _on(capacity: str) -> str:
    return {SPOT: " on spot", ON_DEMAND: " on demand"}.get(capacity, "")

"""How many workers of a deployment are on spot: which go first, and when one comes back to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .capacity import ON_DEMAND, SPOT, Mix, SpotPolicy
from .interruption import RECLAIMS
from .memory import Memory
from .observed import Observed, Worker
from .placement import PlacementDecision, count_mix
from .worker_groups import WorkerGroups

BACK_TO_SPOT = "spot has room again"
BACK_TO_BASE = "spec.placement.spot asks for more workers on demand"


def new_reclaims(seen: Observed, memory: Memory) -> list[Worker]:
    """Spot workers that were told since the last plan that the provider takes them back."""
    return [
        w
        for w in seen.workers
        if w.capacity == SPOT
        and w.notice is not None
        and w.notice.kind in RECLAIMS
        and w.uid not in memory.noticed
    ]


def choose_return(
    seen: Observed, groups: WorkerGroups, placement: PlacementDecision, wanted: int
) -> tuple[Worker, str] | None:
    """One worker that another capacity replaces, and why: one at a time, while all is calm.

    It serves until the other one is ready. 2 wanted with policy Prefer, both had to go on demand,
    and spot is not short any more -> the younger one. onDemandBase 1 and both on spot -> the same.
    """
    policy, current = seen.deployment.spot, groups.current
    if policy is None or not wanted or groups.old or groups.leaving or groups.draining:
        return None  # while one drains, the next one would bring it back
    mix = count_mix(current)
    total, most = mix.spot + mix.on_demand, policy.most_spot(wanted)
    is_calm = total == wanted and all(w.uid in groups.ready for w in current)
    is_under_way = total == wanted + 1  # the replacement counts, too
    if not is_calm and not is_under_way:
        return None
    if mix.spot > most:
        return _youngest(current, SPOT, groups), BACK_TO_BASE
    may_return = policy.policy == "Prefer" and not placement.spot_is_short
    if may_return and mix.on_demand > wanted - most:
        return _youngest(current, ON_DEMAND, groups), BACK_TO_SPOT
    return None


def _youngest(workers: Iterable[Worker], capacity: str, groups: WorkerGroups) -> Worker:
    """Of the ready ones, if there are any: what is on its way is not what is replaced."""
    of_it = [w for w in workers if (w.capacity == SPOT) == (capacity == SPOT)]
    return max(of_it, key=lambda w: (w.uid in groups.ready, w.created, w.ordinal))


def drop_within(
    policy: SpotPolicy | None, mix: Mix, ranked: Sequence[Worker], count: int, wanted: int
) -> list[Worker]:
    """The first `count` of the ranked ones whose end keeps to spec.placement.spot.

    `mix`: all that serve, these among them. Spot beyond the share goes first, and nothing of what
    is on demand below the base. 3 on demand and 3 on spot, a base of 2, 4 wanted -> the first one
    on demand at most.
    """
    if policy is None or count <= 0:
        return list(ranked[: max(count, 0)])
    on_demand = mix.on_demand
    beyond = max(mix.spot - policy.most_spot(wanted), 0)
    dropped = [w for w in ranked if w.capacity == SPOT][: min(beyond, count)]
    floor = min(policy.on_demand_base, wanted)
    for worker in ranked:
        if len(dropped) == count:
            break
        if worker in dropped:
            continue
        if worker.capacity != SPOT:
            if on_demand <= floor:
                continue
            on_demand -= 1
        dropped.append(worker)
    return dropped


def next_capacities(
    seen: Observed, groups: WorkerGroups, placement: PlacementDecision, wanted: int
) -> Iterator[str]:
    """The capacity of each worker that is started, one after the other."""
    mix = count_mix((*groups.current, *groups.old))
    return mix.next_ones(seen.deployment.spot, wanted, is_short=placement.spot_is_short)


def next_capacity(seen: Observed, placement: PlacementDecision) -> str:
    """That of one more worker than there are."""
    policy = seen.deployment.spot
    if policy is None:
        return ""
    mix = count_mix(seen.workers)
    upcoming = mix.next_ones(policy, mix.spot + mix.on_demand + 1, is_short=placement.spot_is_short)
    return next(upcoming)


def may_reroute(seen: Observed, mix: Mix, worker: Worker, wanted: int) -> bool:
    """Whether a draining worker may serve again without too many being on spot."""
    policy = seen.deployment.spot
    return (
        policy is None
        or worker.capacity != SPOT
        or mix.spot < policy.most_spot(max(wanted, mix.spot + mix.on_demand + 1))
    )

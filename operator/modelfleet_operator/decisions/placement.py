"""Which accelerator class and capacity the next worker gets, and which waiting ones move.

A *place* is a class with a capacity: `h100`, or `h100 spot`. Without classes there is `spot` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .capacity import ON_DEMAND, SPOT, Mix
from .observed import Deployment, Observed, Worker
from .ranking import Ranking
from .reasons import Reason

RETRY = 300.0  # seconds after which a place that was short is tried again
STALLED_AFTER = 300.0  # seconds without room on any class, after which a person should act
AVOIDED = 600.0  # seconds for which new spot workers avoid where one was taken back
SPOT_SUFFIX = "spot"  # of a place's name
ONE_RECLAIM = 60.0  # seconds within which reclaims of one zone are one

Reclaims = Mapping[str, tuple[float, ...]]  # by `class/zone`, Unix seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """No node had room for a worker of this place within `fallback_after`."""

    since: float  # when that worker began to wait, Unix seconds
    found: float  # when its wait was long enough
    why: str  # as the scheduler said it


Shortages = Mapping[str, Shortage]  # by place


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementDecision:
    """Where new workers go, and why not to a better place; hand `shortages` back in."""

    accelerator: str  # for new workers; empty: no class was asked for, or none exists
    is_possible: bool  # False: classes are asked for and none of them exists
    missing: tuple[str, ...]  # asked for, but there is no such AcceleratorClass
    short: tuple[str, ...]  # places that are passed over now, best first
    moved: tuple[tuple[Worker, str], ...]  # waiting workers that another place replaces, and why
    shortages: Shortages
    stalls_at: float | None  # when all have been short for too long; None: they are not
    wake_at: float | None  # when time alone may change it, Unix seconds
    spot_accelerator: str = ""  # for new workers on spot
    spot_is_short: bool = False  # those that may be on spot go elsewhere
    avoided: tuple[str, ...] = ()  # places with spot that was taken back lately
    avoid_zones: tuple[str, ...] = ()  # for new workers on spot
    excluded: tuple[tuple[str, str], ...] = ()  # classes that cannot hold the model, and why

    def class_for(self, capacity: str) -> str:
        """The accelerator class of a new worker of this capacity."""
        return self.spot_accelerator if capacity == SPOT else self.accelerator


def place_name(accelerator: str, capacity: str) -> str:
    """`h100` on demand, `h100 spot`, or `spot` where no class is asked for."""
    return f"{accelerator} {SPOT_SUFFIX}".strip() if capacity == SPOT else accelerator


def place(
    seen: Observed,
    now: float,
    shortages: Shortages,
    reclaims: Reclaims | None = None,
    ranking: Ranking | None = None,
) -> PlacementDecision:
    """The best place that is not short; one is short once a worker waited too long for it.

    It is tried again after `RETRY`. A waiting worker moves only when another place is free for it,
    so that nothing is given up for nothing while all of them are short. Of each class spot comes
    first, where it is asked for, then on demand, then the next class.

    Accelerators [h100, a10], `fallback_after` 60 s, a worker waits for an h100 since 60 s -> h100
    is short for 300 s, new workers go to a10, and the waiting worker moves there. The same on spot
    with policy Prefer -> `h100 spot` is short, and they go to h100 on demand. A `ranking` says
    instead which place is the best.
    """
    deployment = seen.deployment
    reclaims = reclaims or {}
    excluded = () if ranking is None else ranking.excluded
    if ranking is None:
        usable = existing_classes(seen)
        places = list_places(deployment, usable)
    else:
        places = ranking.order
        usable = tuple(dict.fromkeys(name for name, _ in places))
    is_possible = bool(usable) or not deployment.accelerators
    waiting = [worker for worker in seen.workers if _waits_for_a_node(worker)]
    shortages = _bring_up_to_date(shortages, seen, places, waiting, now)
    stalls_at = _stalls_at(places, waiting, shortages)
    short = tuple(p for p in map(_name, places) if p in shortages and _is_short(shortages[p], now))
    avoided = tuple(
        place_name(name, capacity)
        for name, capacity in places
        if capacity == SPOT and _is_avoided(name, reclaims, now)
    )
    free = [found for found in places if _name(found) not in (*short, *avoided)]
    on_demand = [name for name, capacity in free if capacity != SPOT]
    chosen = (on_demand or usable or ("",))[0]
    spot, spot_is_short = _choose_spot(deployment, places, free)
    moved = tuple(
        (worker, why)
        for worker in waiting
        if is_possible and (why := _why_move(worker, seen, free, shortages, chosen, dict(excluded)))
    )
    return PlacementDecision(
        accelerator=chosen,
        is_possible=is_possible,
        missing=tuple(name for name in deployment.accelerators if name not in seen.accelerators),
        short=short,
        moved=moved,
        shortages=shortages,
        stalls_at=stalls_at,
        wake_at=_wake_at(deployment, waiting, shortages, reclaims, stalls_at, now),
        spot_accelerator=spot,
        spot_is_short=spot_is_short,
        avoided=avoided,
        avoid_zones=_zones(spot, reclaims, now),
        excluded=excluded,
    )


def existing_classes(seen: Observed) -> tuple[str, ...]:
    """Those that are asked for and exist."""
    return tuple(name for name in seen.deployment.accelerators if name in seen.accelerators)


def list_places(deployment: Deployment, usable: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Where workers may go, in the order that the spec says."""
    if deployment.accelerators and not usable:
        return ()
    policy = deployment.spot.policy if deployment.spot is not None else "Never"
    capacities = {
        "Never": (ON_DEMAND,),
        "Prefer": (SPOT, ON_DEMAND),
        "Only": (SPOT, ON_DEMAND)
        if deployment.spot and deployment.spot.on_demand_base
        else (SPOT,),
    }[policy]
    if not usable:  # what is on demand waits for no place then
        return (("", SPOT),) if SPOT in capacities else ()
    return tuple((name, capacity) for name in usable for capacity in capacities)


def _name(found: tuple[str, str]) -> str:
    return place_name(*found)


def _choose_spot(
    deployment: Deployment, places: tuple[tuple[str, str], ...], free: list[tuple[str, str]]
) -> tuple[str, bool]:
    """The class of a worker that may be on spot; and whether it is on demand for now."""
    asked = [name for name, capacity in places if capacity == SPOT]
    if not asked or deployment.spot is None:
        return "", True
    if deployment.spot.policy == "Only":
        return next((name for name, capacity in free if capacity == SPOT), asked[0]), False
    if not free:  # all are short: on demand is what there is most of
        return asked[0], True
    name, capacity = free[0]
    # Without classes nothing else is known of what is on demand: spot that is short is not there.
    return (name, False) if capacity == SPOT else (asked[0], True)


def _is_avoided(accelerator: str, reclaims: Reclaims, now: float) -> bool:
    """Whether its spot market as a whole seems short: in an unknown zone, in two, or twice in one.

    One reclaim in one zone says something of that zone only: new workers avoid it.
    """
    recent = _recent(accelerator, reclaims, now)
    return (
        "" in recent
        or len(recent) > 1
        or any(max(times) - min(times) > ONE_RECLAIM for times in recent.values())
    )


def _zones(accelerator: str, reclaims: Reclaims, now: float) -> tuple[str, ...]:
    return tuple(sorted(_recent(accelerator, reclaims, now).keys() - {""}))


def _recent(accelerator: str, reclaims: Reclaims, now: float) -> dict[str, list[float]]:
    """Times of reclaims of a class by zone, while it is avoided."""
    found = {}
    for key, times in reclaims.items():
        name, _, zone = key.partition("/")
        recent = [at for at in times if 0 <= now - at < AVOIDED]
        if name == accelerator and recent:
            found[zone] = recent
    return found


def note_reclaims(before: Reclaims, workers: list[Worker], now: float) -> Reclaims:
    """With these spot workers, which were told just now that they are taken back."""
    after = {key: kept for key, times in before.items() if (kept := _kept(times, now))}
    for worker in workers:
        key = f"{worker.accelerator}/{worker.zone}"
        if now not in after.get(key, ()):
            after[key] = (*after.get(key, ()), now)[-4:]
    return before if after == before else after


def _kept(times: tuple[float, ...], now: float) -> tuple[float, ...]:
    return tuple(at for at in times if now - at < AVOIDED)


def _stalls_at(
    places: tuple[tuple[str, str], ...], waiting: list[Worker], shortages: Shortages
) -> float | None:
    names = [*map(_name, places)]
    if not names or not waiting or not all(name in shortages for name in names):
        return None
    return min(shortages[name].since for name in names) + STALLED_AFTER


def _waits_for_a_node(worker: Worker) -> bool:
    return (
        worker.problem is not None
        and worker.problem.reason is Reason.UNSCHEDULABLE
        and worker.is_serving
    )


def _is_short(shortage: Shortage, now: float) -> bool:
    return now - shortage.found < RETRY


def _bring_up_to_date(
    shortages: Shortages,
    seen: Observed,
    places: tuple[tuple[str, str], ...],
    waiting: list[Worker],
    now: float,
) -> Shortages:
    """Forgets what is over, adds what is new; the places asked for bound it."""
    kept = {}
    for found in places:
        name = _name(found)
        shortage = shortages.get(name)
        if shortage is not None and (
            _has_room_again(seen, name, shortage) or not (waiting or _is_short(shortage, now))
        ):
            shortage = None
        if shortage is None or not _is_short(shortage, now):
            shortage = _found(seen, name, waiting, now, shortage) or shortage
        if shortage is not None:
            kept[name] = shortage
    return kept


def _place_of(worker: Worker, seen: Observed) -> str:
    """Where it is or waits; without a policy its node may be spot, which was not asked for."""
    capacity = "" if seen.deployment.spot is None else worker.capacity
    return place_name(worker.accelerator, capacity)


def _has_room_again(seen: Observed, name: str, shortage: Shortage) -> bool:
    return any(
        _place_of(worker, seen) == name
        and worker.placed_at is not None
        and worker.placed_at > shortage.found
        for worker in seen.workers
    )


def _found(
    seen: Observed, name: str, waiting: list[Worker], now: float, before: Shortage | None
) -> Shortage | None:
    """A worker that waits for this place, as its class is defined now, for too long."""
    for worker in waiting:
        if _place_of(worker, seen) != name or _is_outdated(worker, seen) or worker.problem is None:
            continue
        if now - worker.problem.since >= seen.deployment.fallback_after:
            since = before.since if before else worker.problem.since
            return Shortage(since=since, found=now, why=worker.problem.message)
    return None


def _is_outdated(worker: Worker, seen: Observed) -> bool:
    if not worker.accelerator and not seen.deployment.accelerators:
        return False
    wanted = seen.accelerators.get(worker.accelerator)
    return wanted is None or wanted.generation != worker.accelerator_generation


def _why_move(
    worker: Worker,
    seen: Observed,
    free: list[tuple[str, str]],
    shortages: Shortages,
    chosen: str,
    excluded: Mapping[str, str],
) -> str:
    """Empty: it stays."""
    name, deployment = worker.accelerator, seen.deployment
    asked = deployment.accelerators
    if not name and asked:
        return f"accelerator class {chosen} is asked for now"
    if name and name not in asked:
        return f"accelerator class {name} is not asked for any more"
    if name and _is_outdated(worker, seen):
        return f"accelerator class {name} was changed while it waited"
    if name in excluded:
        return f"accelerator class {name} cannot hold the model: {excluded[name]}"
    if worker.capacity == SPOT and (deployment.spot is None or deployment.spot.policy == "Never"):
        return "spec.placement.spot does not allow spot any more"
    mine, others = _place_of(worker, seen), _alternatives(worker, seen, free)
    if mine in shortages and others and (name, worker.capacity) not in others:
        first = place_name(*others[0])
        if deployment.spot is not None and others[0][1] != SPOT:
            first = f"{first} on demand".strip()
        where = f"accelerator class {mine}" if name else mine
        return f"no room on {where}, so {first} is tried: {shortages[mine].why}"
    return ""


def _alternatives(
    worker: Worker, seen: Observed, free: list[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Free places that this worker may be in; without a policy its capacity is not asked for."""
    policy = seen.deployment.spot
    if policy is None:
        return [(name, worker.capacity) for name, _ in free]
    if worker.capacity == SPOT:
        if policy.policy == "Only":
            return [found for found in free if found[1] == SPOT]
        return free or ([] if worker.accelerator else [("", ON_DEMAND)])
    if count_mix(seen.workers).on_demand > policy.on_demand_base:
        return free
    return [found for found in free if found[1] != SPOT]


def count_mix(workers: tuple[Worker, ...] | list[Worker]) -> Mix:
    """Those that serve, or will, by their capacity; one with a notice is as good as gone."""
    there = [w.capacity for w in workers if w.is_serving and w.notice is None]
    return Mix(spot=there.count(SPOT), on_demand=len(there) - there.count(SPOT))


def _wake_at(
    deployment: Deployment,
    waiting: list[Worker],
    shortages: Shortages,
    reclaims: Reclaims,
    stalls_at: float | None,
    now: float,
) -> float | None:
    times = [] if stalls_at is None else [stalls_at]
    times += [shortage.found + RETRY for shortage in shortages.values()]
    times += [w.problem.since + deployment.fallback_after for w in waiting if w.problem]
    times += [at + AVOIDED for reclaimed in reclaims.values() for at in reclaimed]
    return min((time for time in times if time > now), default=None)

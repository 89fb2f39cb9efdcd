"""Which accelerator class the next worker gets, and which waiting workers move to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .observed import Deployment, Observed, Worker
from .reasons import Reason

RETRY = 300.0  # seconds after which a class that was short is tried again
STALLED_AFTER = 300.0  # seconds without room on any class, after which a person should act


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """No node had room for a worker of this class within `fallback_after`."""

    since: float  # when that worker began to wait, Unix seconds
    found: float  # when its wait was long enough
    why: str  # as the scheduler said it


Shortages = Mapping[str, Shortage]  # by class


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementDecision:
    """Where new workers go, and why not to a better class; hand `shortages` back in."""

    accelerator: str  # for new workers; empty: no class was asked for, or none exists
    is_possible: bool  # False: classes are asked for and none of them exists
    missing: tuple[str, ...]  # asked for, but there is no such AcceleratorClass
    short: tuple[str, ...]  # passed over now, best first
    moved: tuple[tuple[Worker, str], ...]  # waiting workers that another class replaces, and why
    shortages: Shortages
    stalls_at: float | None  # when all have been short for too long; None: they are not
    wake_at: float | None  # when time alone may change it, Unix seconds


def place(seen: Observed, now: float, shortages: Shortages) -> PlacementDecision:
    """The best class that is not short; a class is short once a worker waited too long for it.

    It is tried again after `RETRY`. A waiting worker moves only when another class is free for it,
    so that nothing is given up for nothing while all of them are short.

    Accelerators [h100, a10], `fallback_after` 60 s, a worker waits for an h100 since 60 s -> h100
    is short for 300 s, new workers go to a10, and the waiting worker moves there.
    """
    deployment = seen.deployment
    usable = tuple(name for name in deployment.accelerators if name in seen.accelerators)
    waiting = [worker for worker in seen.workers if _waits_for_a_node(worker)]
    shortages = _bring_up_to_date(shortages, seen, waiting, now) if usable else {}
    stalls_at = _stalls_at(usable, waiting, shortages)
    short = tuple(name for name in usable if name in shortages and _is_short(shortages[name], now))
    free = [name for name in usable if name not in short]
    chosen = (free or usable or ("",))[0]
    is_possible = bool(usable) or not deployment.accelerators
    moved = tuple(
        (worker, why)
        for worker in waiting
        if is_possible and (why := _why_move(worker, seen, free, shortages, chosen))
    )
    return PlacementDecision(
        accelerator=chosen,
        is_possible=is_possible,
        missing=tuple(name for name in deployment.accelerators if name not in usable),
        short=short,
        moved=moved,
        shortages=shortages,
        stalls_at=stalls_at,
        wake_at=_wake_at(deployment, waiting, shortages, stalls_at, now),
    )


def _stalls_at(
    usable: tuple[str, ...], waiting: list[Worker], shortages: Shortages
) -> float | None:
    if not usable or not waiting or not all(name in shortages for name in usable):
        return None
    return min(shortages[name].since for name in usable) + STALLED_AFTER


def _waits_for_a_node(worker: Worker) -> bool:
    return (
        worker.problem is not None
        and worker.problem.reason is Reason.UNSCHEDULABLE
        and worker.is_serving
    )


def _is_short(shortage: Shortage, now: float) -> bool:
    return now - shortage.found < RETRY


def _bring_up_to_date(
    shortages: Shortages, seen: Observed, waiting: list[Worker], now: float
) -> Shortages:
    """Forgets what is over, adds what is new; the classes asked for bound it."""
    kept = {}
    for name in seen.deployment.accelerators:
        if name not in seen.accelerators:
            continue
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


def _has_room_again(seen: Observed, name: str, shortage: Shortage) -> bool:
    return any(
        worker.accelerator == name
        and worker.placed_at is not None
        and worker.placed_at > shortage.found
        for worker in seen.workers
    )


def _found(
    seen: Observed, name: str, waiting: list[Worker], now: float, before: Shortage | None
) -> Shortage | None:
    """A worker that waits for this class, as it is defined now, for too long."""
    for worker in waiting:
        if worker.accelerator != name or _is_outdated(worker, seen) or worker.problem is None:
            continue
        if now - worker.problem.since >= seen.deployment.fallback_after:
            since = before.since if before else worker.problem.since
            return Shortage(since=since, found=now, why=worker.problem.message)
    return None


def _is_outdated(worker: Worker, seen: Observed) -> bool:
    wanted = seen.accelerators.get(worker.accelerator)
    return wanted is None or wanted.generation != worker.accelerator_generation


def _why_move(
    worker: Worker, seen: Observed, free: list[str], shortages: Shortages, chosen: str
) -> str:
    """Empty: it stays."""
    name, asked = worker.accelerator, seen.deployment.accelerators
    if not name:
        return f"accelerator class {chosen} is asked for now" if asked else ""
    if name not in asked:
        return f"accelerator class {name} is not asked for any more"
    if _is_outdated(worker, seen):
        return f"accelerator class {name} was changed while it waited"
    if free and name not in free:
        return f"no room on accelerator class {name}, so {chosen} is tried: {shortages[name].why}"
    return ""


def _wake_at(
    deployment: Deployment,
    waiting: list[Worker],
    shortages: Shortages,
    stalls_at: float | None,
    now: float,
) -> float | None:
    times = [] if stalls_at is None else [stalls_at]
    times += [shortage.found + RETRY for shortage in shortages.values()]
    times += [w.problem.since + deployment.fallback_after for w in waiting if w.problem]
    return min((time for time in times if time > now), default=None)

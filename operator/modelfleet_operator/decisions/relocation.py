"""With strategy Cheapest: which running worker is replaced where a token costs less."""

from __future__ import annotations

from .capacity import ON_DEMAND, SPOT
from .choice import Choice, PlacementMemory
from .observed import Observed, Worker
from .placement import PlacementDecision, place_name
from .ranking import Place, show_place
from .worker_groups import WorkerGroups

SETTLED = 300.0  # seconds after a choice before running workers follow it
SHORT_PAUSE = 1800.0  # seconds after a place was short before one is replaced there


def choose_relocation(
    seen: Observed,
    groups: WorkerGroups,
    placement: PlacementDecision,
    choice: Choice,
    memory: PlacementMemory,
    wanted: int,
    now: float,
) -> tuple[Worker, str] | None:
    """One worker that another place replaces, and why: one at a time, while all is calm.

    It serves until the other one is ready. 2 wanted, both on h100 at 1.11 per million tokens, new
    ones go to l4 at 0.78, minSaving 20 % -> the younger one.
    """
    current = groups.current
    if not wanted or groups.old or groups.leaving or groups.draining or choice.best is None:
        return None
    is_calm = len(current) == wanted and all(w.uid in groups.ready for w in current)
    is_under_way = len(current) == wanted + 1  # the replacement counts, too
    if (not is_calm and not is_under_way) or 0 <= now - choice.since < SETTLED:
        return None
    found = [
        (worker, place, saving)
        for worker in current
        if (place := _target(worker, seen, placement)) is not None
        and (saving := _saving(worker, place, seen, choice)) >= seen.deployment.min_saving
        and not 0 <= now - memory.short_at.get(place_name(*place), 0.0) < SHORT_PAUSE
    ]
    if not found:
        return None
    worker, place, saving = max(
        found, key=lambda f: (f[0].uid in groups.ready, f[2], f[0].created, f[0].ordinal)
    )
    return worker, f"a token costs {saving:.0%} less on {show_place(place)}"


def place_of(worker: Worker, seen: Observed) -> Place:
    """Where it is; without a policy its node may be spot, which was not asked for."""
    is_spot = worker.capacity == SPOT and seen.deployment.spot is not None
    return worker.accelerator, SPOT if is_spot else ON_DEMAND


def _target(worker: Worker, seen: Observed, placement: PlacementDecision) -> Place | None:
    """Where one like it would go now; None: it stays."""
    name, capacity = place_of(worker, seen)
    if capacity == SPOT and placement.spot_is_short:
        return None
    place = (placement.class_for(capacity), capacity)
    return None if place[0] == name or place_name(*place) in placement.short else place


def _saving(worker: Worker, place: Place, seen: Observed, choice: Choice) -> float:
    """Share of a token's cost; 0 where one of the two is not rated, or keeps the targets less."""
    here, there = choice.ranking.find(place_of(worker, seen)), choice.ranking.find(place)
    if here is None or there is None or here.cost <= 0:
        return 0.0
    if here.throughput.keeps_targets and not there.throughput.keeps_targets:
        return 0.0
    return 1 - there.cost / here.cost

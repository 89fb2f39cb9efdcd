"""With strategy Cheapest: which place new workers get, decided calmly, and what is remembered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Self

from .model_memory import REPORTED, MemoryUse, ModelNeeds
from .observed import Deployment, Observed, Signals, Worker, WorkerState, WorkerStats
from .placement import existing_classes, list_places
from .ranking import Misfit, Place, Ranking, Rated, Wanted, rank, show_gib
from .reasons import Reason
from .throughput import MOST_CLASSES, ClassSpeeds

STANDS = 600.0  # seconds for which a choice stands, unless its place is out of the question
CHANGE_ABOVE = 0.05  # of the cost, above which another place is chosen
WHY_LENGTH = 300  # characters of a misfit that are kept


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementMemory:
    """Empty for deployments whose classes stand in order; else some 6 kB as JSON at most."""

    revision: str = ""  # that the misfits are of
    speed_key: str = ""  # that speeds and memory are of
    speeds: ClassSpeeds = field(default_factory=ClassSpeeds)
    use: MemoryUse | None = None  # as a worker reported it, the least
    misfits: Mapping[str, Misfit] = field(default_factory=lambda: MappingProxyType({}))
    chosen: Place | None = None
    chosen_at: float = 0.0
    short_at: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """When a place was found short last, by its name."""
    ranked: tuple[object, Ranking] | None = None  # what it was made of, and the ranking; not kept

    def dump(self) -> dict[str, Any]:
        """JSON types; empty where nothing is to be remembered."""
        if self.chosen is None and not self.misfits and not self.speed_key:
            return {}
        use = self.use
        return {
            "revision": self.revision,
            "speed_key": self.speed_key,
            "speeds": self.speeds.dump(),
            "use": [use.weights, use.cache, use.working, use.available] if use else None,
            "misfits": {name: [found.memory, found.why] for name, found in self.misfits.items()},
            "chosen": list(self.chosen) if self.chosen else None,
            "chosen_at": self.chosen_at,
            "short_at": dict(self.short_at),
        }

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> Self:
        """Reads what `dump` wrote; what cannot be read is as if it were not there."""
        try:
            return cls._load(dumped)
        except (AttributeError, TypeError, ValueError, KeyError):
            return cls()

    @classmethod
    def _load(cls, dumped: Mapping[str, Any]) -> Self:
        if not dumped:
            return cls()
        use, chosen = dumped.get("use"), dumped.get("chosen")
        name, capacity = chosen or ("", "")
        return cls(
            revision=str(dumped["revision"]),
            speed_key=str(dumped["speed_key"]),
            speeds=ClassSpeeds.load(dumped["speeds"]),
            use=_use(*map(int, use)) if use else None,
            misfits={
                str(name): Misfit(memory=int(memory), why=str(why))
                for name, (memory, why) in dumped.get("misfits", {}).items()
            },
            chosen=(str(name), str(capacity)) if chosen else None,
            chosen_at=float(dumped.get("chosen_at", 0.0)),
            short_at={str(place): float(at) for place, at in dumped.get("short_at", {}).items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Where new workers go while it has room, by the ranking, whose order has it first."""

    ranking: Ranking
    since: float = 0.0  # when it was chosen, Unix seconds
    ends_at: float | None = None  # when a better place may be chosen; None: there is none

    @property
    def best(self) -> Rated | None:
        """None: no place could be rated."""
        return self.ranking.rated[0] if self.ranking.rated else None

    @property
    def runner_up(self) -> Rated | None:
        """None: there is none."""
        return self.ranking.rated[1] if len(self.ranking.rated) > 1 else None


def learn_placement(
    memory: PlacementMemory,
    seen: Observed,
    signals: Signals,
    now: float,
    was_ready: frozenset[str],
) -> PlacementMemory:
    """With what workers measured, what they say of their memory, and where the model did not fit.

    Another model or other engine options are measured anew; another revision may fit where the one
    before did not.
    """
    deployment = seen.deployment
    if memory.speed_key != deployment.speed_key:
        memory = PlacementMemory(
            speed_key=deployment.speed_key, revision=deployment.revision, short_at=memory.short_at
        )
    misfits = dict(memory.misfits) if memory.revision == deployment.revision else {}
    current = [w for w in seen.workers if w.revision == deployment.revision]
    for worker in current:
        found = seen.accelerators.get(worker.accelerator)
        if found is None or worker.accelerator not in deployment.accelerators:
            continue
        stats = signals.stats.get(worker.id)
        if why := _why_it_did_not_fit(worker, stats, was_ready):
            misfits[worker.accelerator] = Misfit(memory=found.memory, why=why[:WHY_LENGTH])
    speeds = memory.speeds.take(now, current, signals.stats, deployment.accelerators)
    use = _reported(current, signals, memory.use)
    if (
        speeds is memory.speeds
        and use == memory.use
        and misfits == memory.misfits
        and memory.revision == deployment.revision
    ):
        return memory
    kept = dict(list(misfits.items())[-MOST_CLASSES:])
    return replace(memory, revision=deployment.revision, speeds=speeds, use=use, misfits=kept)


def choose_place(
    memory: PlacementMemory, seen: Observed, now: float
) -> tuple[Choice, PlacementMemory]:
    """The cheapest place, and the memory with it; ranked again only when something changed.

    Another place is chosen when a token costs 5 % less there and the choice has stood for ten
    minutes, so that measurements which differ a little do not move it.
    """
    deployment = seen.deployment
    classes = {name: seen.accelerators[name] for name in existing_classes(seen)}
    wanted = Wanted(
        places=list_places(deployment, tuple(classes)),
        needs=needs_of(memory, deployment),
        targets=deployment.scaling.targets,
        misfits=memory.misfits,
    )
    made_of = (wanted, classes, memory.speeds.shown)
    if memory.ranked is not None and memory.ranked[0] == made_of:
        ranking = memory.ranked[1]
    else:
        ranking = rank(wanted, classes, memory.speeds.shown)
        memory = replace(memory, ranked=(made_of, ranking))
    if not ranking.rated:
        return Choice(ranking=ranking), memory
    best, current = ranking.rated[0], memory.chosen and ranking.find(memory.chosen)
    if not current or _is_to_change(current, best, now - memory.chosen_at):
        current = best
    if current.place != memory.chosen:
        memory = replace(memory, chosen=current.place, chosen_at=now)
    rest = (r for r in ranking.rated if r is not current)
    choice = Choice(
        ranking=replace(ranking, rated=(current, *rest)),
        since=memory.chosen_at,
        ends_at=memory.chosen_at + STANDS if best is not current else None,
    )
    return choice, memory


def needs_of(memory: PlacementMemory, deployment: Deployment) -> ModelNeeds:
    """As a worker reported, else as it was estimated."""
    use = memory.use
    if use is None:
        return deployment.needs
    return ModelNeeds(total=use.total, weights=use.weights, basis=REPORTED)


def note_short(memory: PlacementMemory, short: Iterable[str], now: float) -> PlacementMemory:
    """With the places that are short now."""
    fresh = {
        name: now for name in short if not 0 <= now - memory.short_at.get(name, 0.0) < STANDS / 2
    }
    if not fresh:
        return memory
    kept = dict(list({**memory.short_at, **fresh}.items())[-2 * MOST_CLASSES :])
    return replace(memory, short_at=kept)


def _is_to_change(current: Rated, best: Rated, stood: float) -> bool:
    if best is current or 0 <= stood < STANDS:
        return False
    if best.throughput.keeps_targets != current.throughput.keeps_targets:
        return True
    if not best.throughput.keeps_targets:
        return best.throughput.step < current.throughput.step * (1 - CHANGE_ABOVE)
    return best.cost < current.cost * (1 - CHANGE_ABOVE)


def _why_it_did_not_fit(
    worker: Worker, stats: WorkerStats | None, was_ready: frozenset[str]
) -> str:
    """Empty: it did, or nothing is known of it yet."""
    if worker.uid in was_ready:
        return ""
    if worker.failure is not None and worker.failure_reason is Reason.OUT_OF_MEMORY:
        return f"{worker.name} ran out of memory there: {worker.failure}"
    use = stats.memory if stats is not None else None
    if stats is not None and stats.state is WorkerState.FAILED and use and not use.fits:
        return (
            f"{worker.name} needs {show_gib(use.total)} and found {show_gib(use.available)} there"
        )
    return ""


def _reported(
    workers: list[Worker], signals: Signals, before: MemoryUse | None
) -> MemoryUse | None:
    """The least that any worker got by with: where there is more memory, the cache is larger."""
    found = [] if before is None else [before]
    found += [
        stats.memory
        for worker in workers
        if (stats := signals.stats.get(worker.id)) is not None and stats.memory is not None
    ]
    return min(found, key=lambda use: (use.total, use.weights), default=None)


def _use(weights: int, cache: int, working: int, available: int) -> MemoryUse:
    return MemoryUse(weights=weights, cache=cache, working=working, available=available)

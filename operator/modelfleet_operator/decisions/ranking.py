"""Where a generated token is cheapest: the places that can hold the model, by what they cost.

A place is a class with a capacity, as in `placement`. Those that keep the targets of latency come
before those that do not, and those of which too little is known come last, as they are listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from .capacity import SPOT
from .cost import price_at, two_currencies
from .model_memory import ModelNeeds
from .observed import Accelerator
from .throughput import Basis, Throughput, throughputs
from .worker_speed import Targets, WorkerSpeed

GIB = 1 << 30

Place = tuple[str, str]  # class, capacity (Spot, OnDemand; empty: not asked for)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rated:
    """One place with its figures."""

    place: Place
    cost: float  # of a million generated tokens
    throughput: Throughput


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """A worker of the model could not load on this class."""

    memory: int  # of the class then: with another one it is tried again
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """All places that were asked for."""

    rated: tuple[Rated, ...] = ()  # best first
    unrated: tuple[tuple[Place, str], ...] = ()  # as listed, and what they lack
    excluded: tuple[tuple[str, str], ...] = ()  # classes that cannot hold the model, and why
    needs: ModelNeeds = field(default_factory=ModelNeeds)
    currency: str = ""
    problem: str = ""  # why nothing can be compared

    @property
    def order(self) -> tuple[Place, ...]:
        """Every place that a worker may go to, best first."""
        return (*(r.place for r in self.rated), *(place for place, _ in self.unrated))

    def find(self, place: Place) -> Rated | None:
        """None: it is not rated."""
        return next((r for r in self.rated if r.place == place), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a ranking depends on, beside the classes."""

    places: tuple[Place, ...]  # of classes that exist, as listed
    needs: ModelNeeds
    targets: Targets
    misfits: Mapping[str, Misfit]


def rank(
    wanted: Wanted, classes: Mapping[str, Accelerator], speeds: Mapping[str, WorkerSpeed]
) -> Ranking:
    """Rates each place.

    h100 at 4 an hour generates 1,000 tokens a second, l4 at 0.70 an hour 250 -> l4 at 0.78 per
    million, then h100 at 1.11. With a tpot of 20 ms, where l4 takes 25 -> h100, then l4.
    """
    names = tuple(dict.fromkeys(name for name, _ in wanted.places))
    excluded = {name: why for name in names if (why := _why_excluded(name, classes[name], wanted))}
    left = [place for place in wanted.places if place[0] not in excluded]
    currencies: dict[str, str] = {}
    for name, _ in left:
        if currency := classes[name].currency:
            currencies.setdefault(currency, name)
    if len(currencies) > 1:
        problem = two_currencies(dict(sorted(currencies.items())))
        return Ranking(
            unrated=tuple((place, problem) for place in left),
            excluded=tuple(excluded.items()),
            needs=wanted.needs,
            problem=problem,
        )
    speed = throughputs(
        dict.fromkeys(name for name, _ in left), classes, speeds, wanted.needs, wanted.targets
    )
    rated, unrated = [], []
    for place in left:
        name, capacity = place
        price, found = price_at(classes, name, capacity), speed.get(name)
        lacks = _what_it_lacks(classes[name], price, found)
        if lacks or price is None or found is None:
            unrated.append((place, lacks))
        else:
            rated.append(Rated(place=place, cost=_cost(price, found), throughput=found))
    return Ranking(
        rated=tuple(sorted(rated, key=_merit)),
        unrated=tuple(unrated),
        excluded=tuple(excluded.items()),
        needs=wanted.needs,
        currency=next(iter(currencies), ""),
    )


def _merit(rated: Rated) -> tuple[bool, float, float]:
    """Where no place keeps the targets, the fastest is the least bad."""
    keeps = rated.throughput.keeps_targets
    return not keeps, 0.0 if keeps else rated.throughput.step, rated.cost


def _cost(price: Decimal, throughput: Throughput) -> float:
    return float(price) / (throughput.tokens * 3600) * 1e6


def _why_excluded(name: str, found: Accelerator, wanted: Wanted) -> str:
    """Empty: it may hold the model."""
    misfit = wanted.misfits.get(name)
    if misfit is not None and misfit.memory == found.memory:
        return misfit.why
    needs = wanted.needs
    if found.memory and needs.total > found.memory:
        return (
            f"a worker of this model needs {show_gib(needs.total)} ({needs.basis}), and its memory "
            f"is {show_gib(found.memory)}"
        )
    return ""


def _what_it_lacks(found: Accelerator, price: Decimal | None, speed: Throughput | None) -> str:
    """Empty: it can be rated."""
    if price is None:
        return "it says no spec.price, so its cost is not known"
    is_measured = speed is not None and speed.basis is Basis.MEASURED
    if not found.memory and not is_measured:
        return "it says no spec.memory, so it is not known whether the model fits"
    if speed is None:
        return "no worker of this model ran there yet, and it says no spec.memoryBandwidth"
    if speed.tokens <= 0:
        return "what was measured there gives no throughput yet"
    return ""


def show_gib(count: int) -> str:
    """`17.75 GiB`."""
    return f"{count / GIB:.2f}".rstrip("0").rstrip(".") + " GiB"


def show_place(place: Place) -> str:
    """`h100`, `h100 on spot`."""
    name, capacity = place
    return f"{name} on spot" if capacity == SPOT else name


def show_figure(number: float) -> str:
    """Three digits: 0.784, 12.3, 1,240."""
    text = f"{Decimal(f'{number:.3g}'):,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def describe(rated: Rated, currency: str) -> str:
    """`0.784 USD per million tokens (measured, 250 tokens/s)`."""
    basis = {
        Basis.MEASURED: "measured",
        Basis.ESTIMATED: "estimated from its memory bandwidth",
    }[rated.throughput.basis]
    money = f"{show_figure(rated.cost)} {currency}".strip()
    return f"{money} per million tokens ({basis}, {show_figure(rated.throughput.tokens)} tokens/s)"


def why_behind(rated: Rated, best: Rated) -> str:
    """Why this one is not chosen."""
    if best.throughput.keeps_targets and not rated.throughput.keeps_targets:
        step = rated.throughput.step * 1000
        return f"it does not keep spec.scaling.slo: a token takes {step:.3g} ms"
    if not rated.throughput.keeps_targets:
        step = best.throughput.step * 1000
        return f"neither keeps spec.scaling.slo, and a token takes {step:.3g} ms at the other"
    if rated.cost < best.cost:
        return (
            f"it is {1 - rated.cost / best.cost:.0%} cheaper, too little or too new to change for"
        )
    return f"a token costs {rated.cost / best.cost - 1:.0%} more" if best.cost else "it costs more"

"""What the status, Events and `explain` say of a choice between accelerator classes."""

from __future__ import annotations

from .placement_figures import PlaceFigures, PlacementStatus
from .plan_context import PlanContext
from .ranking import Rated, describe, show_gib, show_place, why_behind

LENGTH = 512  # characters of a sentence


def placement_status(context: PlanContext) -> PlacementStatus | None:
    """None: the classes stand in order, or none could be rated."""
    choice = context.choice
    if choice is None or choice.best is None:
        return None
    ranking, runner_up = choice.ranking, choice.runner_up
    unrated = {name: why for (name, _), why in ranking.unrated}
    is_asked = context.seen.deployment.spot is not None
    return PlacementStatus(
        chosen=_figures(choice.best, ranking.currency, is_asked=is_asked),
        currency=ranking.currency,
        needs=ranking.needs,
        runner_up=None
        if runner_up is None
        else _figures(
            runner_up,
            ranking.currency,
            is_asked=is_asked,
            why=why_behind(runner_up, choice.best),
        ),
        excluded=tuple((n, why[:LENGTH]) for n, why in (*ranking.excluded, *unrated.items())),
    )


def describe_choice(context: PlanContext) -> str:
    """All places for `explain`; empty: the classes stand in order."""
    choice = context.choice
    if choice is None:
        return ""
    ranking, best = choice.ranking, choice.best
    if ranking.problem:
        return f"the classes stay in their order: {ranking.problem}"
    needs = f"a worker needs {show_gib(ranking.needs.total)} ({ranking.needs.basis})"
    words = []
    for rated in ranking.rated:
        behind = f", {why_behind(rated, best)}" if best and rated is not best else ""
        where = show_place(rated.place)
        words.append(f"{where}: {describe(rated, ranking.currency)}{behind}")
    words += [f"{show_place(place)} is not compared: {why}" for place, why in ranking.unrated]
    words += [f"{name} is out: {why}" for name, why in ranking.excluded]
    return "; ".join((needs, *words))


def _figures(rated: Rated, currency: str, *, is_asked: bool, why: str = "") -> PlaceFigures:
    name, capacity = rated.place
    return PlaceFigures(
        accelerator=name,
        capacity=capacity if is_asked else "",
        cost=rated.cost,
        tokens=rated.throughput.tokens,
        basis=rated.throughput.basis,
        why=why,
        words=f"{show_place(rated.place)}: {describe(rated, currency)}",
    )

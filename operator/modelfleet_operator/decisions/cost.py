"""What a deployment costs: the price book times the workers that hold a node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from .capacity import SPOT
from .observed import Accelerator, Observed, Worker


def price_at(
    accelerators: Mapping[str, Accelerator], accelerator: str, capacity: str
) -> Decimal | None:
    """An hour of one worker on this class and capacity; None: not known.

    A class at 4 on demand and 1.20 on spot, Spot -> 1.20; without a price of spot -> 4.
    """
    found = accelerators.get(accelerator)
    if found is None:
        return None
    is_spot = capacity == SPOT and found.spot_price is not None
    return found.spot_price if is_spot else found.price


def currency_of(seen: Observed, workers: Iterable[Worker]) -> tuple[str, str]:
    """The currency of their prices, and else, in words, why they cannot be added up."""
    named: dict[str, str] = {}  # currency -> a class that has it
    names = sorted({*seen.deployment.accelerators, *(w.accelerator for w in workers)})
    for name in names:
        found = seen.accelerators.get(name)
        if found is not None and found.currency:
            named.setdefault(found.currency, name)
    if len(named) > 1:
        return "", two_currencies(dict(sorted(named.items())))
    return next(iter(named), ""), ""


def two_currencies(named: Mapping[str, str]) -> str:
    """Why prices cannot be added up; `named`: each currency, and a class that has it."""
    each = " and ".join(f"{name} in {currency}" for currency, name in named.items())
    return f"prices in two currencies cannot be added: {each}"


def cost_per_hour(seen: Observed) -> Decimal | None:
    """Sum of the prices of the workers, each at its class and capacity; None: it is not known.

    Starting, draining and exited workers count until they are gone, since their node is held; a
    worker that waits for its node costs nothing yet.
    """
    held = [worker for worker in seen.workers if worker.placed_at is not None]
    if currency_of(seen, held)[1]:
        return None
    total = Decimal(0)
    for worker in held:
        price = price_at(seen.accelerators, worker.accelerator, worker.capacity)
        if price is None:
            return None
        total += price
    return total if total or seen.deployment.accelerators else None

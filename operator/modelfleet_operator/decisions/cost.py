"""What a deployment costs: the price book times the workers that hold a node."""

from __future__ import annotations

from decimal import Decimal

from .observed import Observed


def cost_per_hour(seen: Observed) -> Decimal | None:
    """Sum of the prices of the workers' accelerator classes; None: a price is not known.

    Starting, draining and dead workers count until they are gone, since their node is held; a
    worker that waits for its node costs nothing yet.
    """
    asked = seen.deployment.accelerators
    paid = [worker.accelerator for worker in seen.workers if worker.placed_at is not None]
    prices = [_price(seen, name) for name in paid]
    if not asked or None in prices or None in [_price(seen, name) for name in asked]:
        return None
    return sum((price for price in prices if price is not None), Decimal(0))


def _price(seen: Observed, name: str) -> Decimal | None:
    found = seen.accelerators.get(name)
    return found.price if found else None

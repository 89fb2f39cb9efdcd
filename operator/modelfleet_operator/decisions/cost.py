"""What a deployment costs: the price book times the workers that hold a node."""

from __future__ import annotations

from decimal import Decimal

from .observed import Observed


def cost_per_hour(seen: Observed) -> Decimal | None:
    """Sum of the prices of the workers' accelerator classes; None: a price is not known.

    Starting, draining and exited workers count until they are gone, since their node is held; a
    worker that waits for its node costs nothing yet.
    """
    total = Decimal(0)
    for worker in seen.workers:
        if worker.placed_at is None:
            continue
        found = seen.accelerators.get(worker.accelerator)
        if found is None or found.price is None:
            return None
        total += found.price
    return total if total or seen.deployment.accelerators else None

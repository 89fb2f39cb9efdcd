"""What spec.scaling.maxHourlyCost leaves room for: it stops growth and ends nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

from .observed import Observed


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Money is an hour's. None everywhere: nothing limits, since no budget or no price is set."""

    limit: Decimal | None = None
    price: Decimal | None = None  # of a new worker
    committed: Decimal = Decimal(0)  # all workers that exist, draining and waiting ones too
    affordable: int | None = None  # workers that may be wanted
    room: int | None = None  # workers that may start now
    problem: str = ""  # why it cannot be obeyed

    def words(self) -> str:
        """The sums."""
        return (
            f"workers cost {self.committed:f} of spec.scaling.maxHourlyCost {self.limit:f}, "
            f"another one {self.price:f}"
        )


def find_budget(seen: Observed, accelerator: str) -> Budget:
    """`accelerator`: the class that new workers go to.

    maxHourlyCost 8, a class at 2.50 an hour, 2 workers -> 3 affordable, room for 1.
    """
    limit = seen.deployment.scaling.max_hourly_cost
    if limit is None:
        return Budget()
    price = _price(seen, accelerator)
    held = [worker for worker in seen.workers if worker.failure is None]
    prices = [_price(seen, worker.accelerator) for worker in held]
    if price is None or None in prices:
        unknown = sorted(
            {w.accelerator for w, cost in zip(held, prices, strict=True) if cost is None}
            | ({accelerator} if price is None else set())
        )
        which = ", ".join(name or "workers without a class" for name in unknown)
        return Budget(limit=limit, problem=f"there is no price for {which}")
    costs = [cost for cost in prices if cost is not None]
    committed = sum(costs, Decimal(0))
    serving = [cost for w, cost in zip(held, costs, strict=True) if w.is_serving]
    return Budget(
        limit=limit,
        price=price,
        committed=committed,
        affordable=_fit(limit - sum(serving, Decimal(0)), price) + len(serving),
        room=_fit(limit - committed, price),
    )


def _price(seen: Observed, accelerator: str) -> Decimal | None:
    found = seen.accelerators.get(accelerator)
    return None if found is None else found.price


def _fit(left: Decimal, price: Decimal) -> int:
    """How many more; negative where too many are there already."""
    if price <= 0:
        return 1_000_000
    return math.floor(left / price)

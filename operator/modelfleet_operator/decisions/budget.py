"""What spec.scaling.maxHourlyCost leaves room for: it stops growth and ends nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from .capacity import ON_DEMAND, SPOT, Mix, SpotPolicy
from .cost import currency_of, price_at
from .observed import Deployment, Observed
from .placement import PlacementDecision, count_mix


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Money is an hour's. None everywhere: nothing limits, since no budget or no price is set."""

    limit: Decimal | None = None
    price: Decimal | None = None  # of the next worker
    prices: tuple[Decimal, Decimal] = (Decimal(0), Decimal(0))  # of new ones: on demand, on spot
    committed: Decimal = Decimal(0)  # all workers that exist, draining and waiting ones too
    affordable: int | None = None  # workers that may be wanted
    room: int | None = None  # workers that may start now
    minimum: Decimal = Decimal(0)  # spec.scaling.minReplicas
    problem: str = ""  # why it cannot be obeyed

    def words(self) -> str:
        """The sums."""
        return (
            f"workers cost {self.committed:f} of spec.scaling.maxHourlyCost {self.limit:f}, "
            f"another one {self.price:f}"
        )

    def count_paid(self, capacities: Iterable[str]) -> int:
        """How many workers of these capacities, one after the other, there is room for.

        12 committed of 20, 4 on demand and 1 on spot: OnDemand, Spot, OnDemand -> 2.
        """
        if self.limit is None or self.problem:
            return sum(1 for _ in capacities)
        spent, count = self.committed, 0
        for capacity in capacities:
            spent += self.prices[capacity == SPOT]
            if spent > self.limit:
                break
            count += 1
        return count


def find_budget(seen: Observed, placement: PlacementDecision) -> Budget:
    """`placement`: where new workers go.

    maxHourlyCost 8, a class at 2.50 an hour, 2 workers -> 3 affordable, room for 1.
    """
    deployment = seen.deployment
    limit = deployment.scaling.max_hourly_cost
    if limit is None:
        return Budget(problem=currency_of(seen, seen.workers)[1])
    held = [worker for worker in seen.workers if worker.failure is None]
    mix = count_mix(held)
    wanted = mix.spot + mix.on_demand + 1
    upcoming = mix.next_ones(deployment.spot, wanted, is_short=placement.spot_is_short)
    capacity = next(upcoming)
    on_demand = price_at(seen.accelerators, placement.accelerator, ON_DEMAND)
    spot = price_at(seen.accelerators, placement.spot_accelerator, SPOT)
    paid = [(w, price_at(seen.accelerators, w.accelerator, w.capacity)) for w in held]
    unknown = {worker.accelerator for worker, cost in paid if cost is None}
    may_be_spot, may_be_on_demand = _may_be(deployment.spot)
    if may_be_on_demand and on_demand is None:
        unknown.add(placement.accelerator)
    if may_be_spot and spot is None:
        unknown.add(placement.spot_accelerator)
    if unknown:
        which = ", ".join(name or "workers without a class" for name in sorted(unknown))
        return Budget(limit=limit, problem=f"there is no price for {which}")
    if problem := currency_of(seen, held)[1]:
        return Budget(limit=limit, problem=problem)
    prices = (on_demand or Decimal(0), spot or Decimal(0))
    price = prices[capacity == SPOT]
    committed = sum((cost for _, cost in paid if cost is not None), Decimal(0))
    serving = [cost for worker, cost in paid if worker.is_serving and cost is not None]
    left = limit - sum(serving, Decimal(0))
    if deployment.spot is None or left < 0:
        more = _fit(left, price)
    else:
        more = _fit_mixed(seen, placement, mix, prices, left)
    return Budget(
        limit=limit,
        price=price,
        prices=prices,
        committed=committed,
        affordable=more + len(serving),
        room=_fit(limit - committed, price),
        minimum=_cost_of_minimum(deployment, prices),
    )


def _may_be(policy: SpotPolicy | None) -> tuple[bool, bool]:
    """Whether new workers may be on spot, and on demand."""
    if policy is None or policy.policy == "Never":
        return False, True
    return True, policy.policy == "Prefer" or policy.on_demand_base > 0


def _cost_of_minimum(deployment: Deployment, prices: tuple[Decimal, Decimal]) -> Decimal:
    """As cheap as it may be: on spot what the policy lets be there."""
    minimum = deployment.scaling.min_replicas
    spot = 0 if deployment.spot is None else deployment.spot.most_spot(minimum)
    return prices[1] * spot + prices[0] * (minimum - spot)


def _fit(left: Decimal, price: Decimal) -> int:
    """How many more; negative where too many are there already."""
    if price <= 0:
        return 1_000_000
    return math.floor(left / price)


def _fit_mixed(
    seen: Observed,
    placement: PlacementDecision,
    mix: Mix,
    prices: tuple[Decimal, Decimal],
    left: Decimal,
) -> int:
    """How many more, where each further one may be on spot or not."""
    policy, most = seen.deployment.spot, max(seen.deployment.scaling.max_replicas, 1)
    there = mix.spot + mix.on_demand
    fitting = 0
    for more in range(1, max(most - there, 0) + 1):
        upcoming = mix.next_ones(policy, there + more, is_short=placement.spot_is_short)
        spot = sum(capacity == SPOT for capacity in itertools.islice(upcoming, more))
        if prices[1] * spot + prices[0] * (more - spot) > left:
            break
        fitting = more
    else:
        return 1_000_000
    return fitting

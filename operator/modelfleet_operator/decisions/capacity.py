"""Spot or on demand: how nodes say it, and which of them the next worker gets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

SPOT, ON_DEMAND = "Spot", "OnDemand"


@dataclass(frozen=True, slots=True)
class CapacityLabel:
    """How one provider says of a node which capacity it is; its taint, if any, is alike."""

    provider: str
    key: str
    spot: str
    on_demand: str  # empty: nodes on demand lack the label


CAPACITY_LABELS: Final = (
    CapacityLabel("Karpenter, EKS Auto Mode", "karpenter.sh/capacity-type", "spot", "on-demand"),
    CapacityLabel("GKE", "cloud.google.com/gke-spot", "true", ""),
    CapacityLabel("EKS managed node groups", "eks.amazonaws.com/capacityType", "SPOT", "ON_DEMAND"),
    CapacityLabel("AKS", "kubernetes.azure.com/scalesetpriority", "spot", ""),
)


def capacity_of(labels: Mapping[str, str]) -> str:
    """`Spot`, `OnDemand`, or empty: no provider says it."""
    values = [(known, labels[known.key]) for known in CAPACITY_LABELS if known.key in labels]
    if any(value == known.spot for known, value in values):
        return SPOT
    return ON_DEMAND if values else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotPolicy:
    """`spec.placement.spot`."""

    policy: Literal["Never", "Prefer", "Only"] = "Never"
    on_demand_base: int = 0  # workers that are never on spot; they come first
    max_share: int = 100  # percent of all workers that may be on spot

    def most_spot(self, wanted: int) -> int:
        """Of so many workers those that may be on spot.

        4 wanted, a base of 1, a share of 60 % -> 2.
        """
        if self.policy == "Never":
            return 0
        return min(math.floor(wanted * self.max_share / 100), max(wanted - self.on_demand_base, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Workers that count, by their capacity; those that go are not among them."""

    spot: int = 0
    on_demand: int = 0

    def next_ones(self, policy: SpotPolicy | None, wanted: int, *, is_short: bool) -> Iterator[str]:
        """The capacity of each further worker of `wanted` in all; empty: no policy asks for one.

        On demand comes first, up to the base. `is_short`: spot has no room now; with policy Only
        it is asked for all the same.

        Prefer, a base of 1 and no worker yet -> OnDemand, Spot, Spot, ...; spot is short ->
        OnDemand, OnDemand, ...
        """
        spot, on_demand = self.spot, self.on_demand
        while True:
            if policy is None:
                yield ""
                continue
            total = max(wanted, spot + on_demand + 1)
            may_be_spot = spot < policy.most_spot(total) and on_demand >= min(
                policy.on_demand_base, total
            )
            if may_be_spot and (policy.policy == "Only" or not is_short):
                spot += 1
                yield SPOT
            else:
                on_demand += 1
                yield ON_DEMAND

"""What is simulated: one deployment, its workers, its pools, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelfleet_process.calibration import Calibration

from ..decisions.capacity import SPOT
from ..decisions.cost import price_at
from ..decisions.observed import Accelerator, Deployment
from .pool import PoolOptions
from .scenario import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """What the fleet's workers are."""

    deployment: Deployment
    calibration: Calibration
    scenario: Scenario
    max_sequences: int
    max_batch_tokens: int
    accelerators: Mapping[str, Accelerator] = field(default_factory=dict)
    price: float | None = None  # an hour of a worker whose class has no price; None: not known
    pools: tuple[PoolOptions, ...] = ()
    seed: int = 0

    def price_of(self, accelerator: str, capacity: str) -> float | None:
        """What an hour of such a node costs; None: not known."""
        known = price_at(self.accelerators, accelerator, capacity)
        if known is not None:
            return float(known)
        if self.price is None:
            return None
        return self.price * (self.scenario.spot.price_share if capacity == SPOT else 1.0)

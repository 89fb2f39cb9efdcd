"""What a body saw of one warm pool: plain values, times in Unix seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType

from .observed import Accelerator
from .standby import Standby


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One WarmPool, reduced to what decisions need."""

    namespace: str
    name: str
    uid: str = ""
    generation: int = 0
    template: str  # hash of all that its standbys are started with
    size: int = 1
    accelerator: str = ""  # an AcceleratorClass; empty: none
    needs_class: bool = True  # whether `accelerator` must exist: on one machine it need not
    max_hourly_cost: Decimal | None = None
    missing_models: tuple[str, ...] = ()  # asked for, but there are no such ModelDeployments
    loaded_model: str = (
        ""  # `namespace/name` of the deployment whose weights they hold; empty: none
    )
    why_not_loaded: str = ""  # of a model that is asked for, and cannot be held
    error: str = ""  # what its user must correct

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


def not_loaded(model: str, why: str) -> str:
    """Why its standbys do not hold spec.loadedModel; `why`: why that claims none of them."""
    return (
        f"spec.loadedModel {model} claims no standby of this pool: {why}; so they hold no model: "
        "name another one, or none"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCounts:
    """What happened since the pool was created."""

    hits: int = 0
    misses: int = 0
    seconds_saved: float = 0.0

    def plus(self, other: PoolCounts) -> PoolCounts:
        """The sums."""
        return PoolCounts(
            hits=self.hits + other.hits,
            misses=self.misses + other.misses,
            seconds_saved=self.seconds_saved + other.seconds_saved,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolObserved:
    """What a body sees of one pool, from its caches."""

    pool: Pool
    standbys: tuple[Standby, ...] = ()  # claimed ones, too
    accelerators: Mapping[str, Accelerator] = field(default_factory=lambda: MappingProxyType({}))
    counts: PoolCounts = PoolCounts()
    refusal: str = ""  # why the last standby could not be started; empty: one was

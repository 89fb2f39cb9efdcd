"""The status of a warm pool as values, and its shape in YAML."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, get_args

from .rendering import parse_time, show_money, show_time

PoolConditionType = Literal["Ready", "Reconciling", "Stalled"]


class PoolReason(enum.Enum):
    """Why a condition of a WarmPool is what it is; docs/warm-pools.md explains each."""

    FULL = "Full"
    FILLING = "Filling"
    AS_DESIRED = "AsDesired"
    INVALID_SPEC = "InvalidSpec"
    ACCELERATOR_CLASS_MISSING = "AcceleratorClassMissing"
    PRICE_MISSING = "PriceMissing"
    BUDGET_TOO_SMALL = "BudgetTooSmall"
    MODEL_MISSING = "ModelMissing"
    MODEL_NOT_LOADED = "ModelNotLoaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCondition:
    """As kstatus reads it."""

    type: PoolConditionType
    holds: bool
    reason: str
    message: str
    changed: float  # when `holds` last changed, Unix seconds
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatus:
    """Every number was observed."""

    observed_generation: int
    conditions: tuple[PoolCondition, ...]
    standby: int = 0  # can be claimed now
    starting: int = 0
    claimed: int = 0  # of deployments, and still there
    hits: int = 0
    misses: int = 0
    seconds_saved: float = 0.0
    hourly_cost: Decimal | None = None  # None: there is no price

    def condition(self, type_: PoolConditionType) -> PoolCondition | None:
        """The condition of that type; None: another version wrote none."""
        return next((c for c in self.conditions if c.type == type_), None)


def render_pool(status: PoolStatus) -> dict[str, Any]:
    """JSON types, camelCase; what is not known is absent."""
    rendered: dict[str, Any] = {
        "observedGeneration": status.observed_generation,
        "conditions": [
            {
                "type": condition.type,
                "status": str(condition.holds),
                "reason": condition.reason,
                "message": condition.message,
                "lastTransitionTime": show_time(condition.changed),
                "observedGeneration": condition.generation,
            }
            for condition in status.conditions
        ],
        "standby": status.standby,
        "starting": status.starting,
        "claimed": status.claimed,
        "hits": status.hits,
        "misses": status.misses,
        "secondsSaved": int(status.seconds_saved),
    }
    if status.hourly_cost is not None:
        rendered["hourlyCost"] = show_money(status.hourly_cost)
    return rendered


def parse_pool(rendered: Mapping[str, Any]) -> PoolStatus | None:
    """What `render_pool` wrote, for its counts and times; None for what it did not write.

    KeyError, TypeError and ValueError for what another hand changed.
    """
    if not rendered.get("conditions"):
        return None
    return PoolStatus(
        observed_generation=rendered.get("observedGeneration", 0),
        conditions=tuple(
            PoolCondition(
                type=condition["type"],
                holds=condition["status"] == "True",
                reason=condition["reason"],
                message=condition.get("message", ""),
                changed=parse_time(condition["lastTransitionTime"]),
                generation=condition.get("observedGeneration", 0),
            )
            for condition in rendered["conditions"]
            if condition["type"] in get_args(PoolConditionType)
        ),
        standby=rendered.get("standby", 0),
        starting=rendered.get("starting", 0),
        claimed=rendered.get("claimed", 0),
        hits=int(rendered.get("hits", 0)),
        misses=int(rendered.get("misses", 0)),
        seconds_saved=float(rendered.get("secondsSaved", 0)),
        hourly_cost=Decimal(rendered["hourlyCost"]) if "hourlyCost" in rendered else None,
    )

"""What a simulation assumes beyond trace and manifest: starts, drains, pools, the spot market."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Annotated, Any, Final, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from ..errors import ScenarioError

_Z95: Final = 1.6448536  # of the normal distribution


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, alias_generator=to_camel,
        populate_by_name=True,
    )  # fmt: skip


def _as_spread(value: Any) -> Any:
    return {"median": value} if isinstance(value, int | float) else value


class Spread(_Part):
    """Seconds that something takes: lognormal, by its median and 95th percentile."""

    median: float = Field(ge=0)
    p95: float = Field(default=0.0, ge=0)  # 0: as the median, so that it always takes the same

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        if 0 < self.p95 < self.median:
            raise ValueError(f"p95 ({self.p95:g}) is below the median ({self.median:g})")
        return self

    def draw(self, chance: random.Random) -> float:
        """Draws one value, also where it is always the same: others do not shift then."""
        normal = chance.gauss(0.0, 1.0)
        if not self.median or self.p95 <= self.median:
            return self.median
        return self.median * math.exp(normal * math.log(self.p95 / self.median) / _Z95)


Seconds = Annotated[Spread, BeforeValidator(_as_spread)]
NOTHING: Final = Spread(median=0.0)


class ColdStart(_Part):
    """The phases from a worker's creation to its being ready, one after another."""

    node: Seconds = NOTHING  # until it has its node; it costs nothing yet
    image: Seconds = NOTHING  # until its process runs
    weights: Seconds = NOTHING  # until they are on the node
    load: Seconds = NOTHING  # until they are in memory
    first_token: Seconds = NOTHING  # warming up

    @property
    def phases(self) -> dict[str, Spread]:
        """By the name that a worker's Stats give them; node and image come before its process."""
        return {
            "node": self.node,
            "Starting": self.image,
            "Download": self.weights,
            "Weights": self.load,
            "Warmup": self.first_token,
        }

    @property
    def has_node_or_image(self) -> bool:
        """Whether it is said what comes before the process runs."""
        return self.node.median + self.image.median > 0

    @property
    def median(self) -> float:
        """Of all phases together."""
        return sum(spread.median for spread in self.phases.values())


class ClaimStart(_Part):
    """The phases from a claim to its worker being ready: its process runs already."""

    weights: Seconds = NOTHING
    load: Seconds = NOTHING
    first_token: Seconds = NOTHING


def _as_load(value: Any) -> Any:
    is_spread = isinstance(value, int | float) or (isinstance(value, dict) and "median" in value)
    return {"load": value} if is_spread else value


class Pool(_Part):
    """Standbys of the files' WarmPools."""

    claim: Annotated[ClaimStart, BeforeValidator(_as_load)] | None = None  # None: see `claiming`
    # The same of a standby that holds the model (spec.loadedModel): it is told to serve.
    loaded_claim: Annotated[ClaimStart, BeforeValidator(_as_load)] = ClaimStart(
        load=Spread(median=0.1)
    )
    start: Seconds | None = None  # until a new one can be claimed; None: see `standing_by`
    price_share: float = Field(default=1.0, ge=0, le=1)  # of a worker's hour, for one of a standby


class Burst(_Part):
    """The provider takes many spot workers of one zone back at once."""

    per_hour: float = Field(default=0.0, ge=0)  # in each zone
    share: float = Field(default=0.5, gt=0, le=1)  # of the zone's workers
    shortage: Seconds = NOTHING  # for so long the zone has no room afterwards


class Shortage(_Part):
    """A zone without room for new spot nodes; what is there stays."""

    per_hour: float = Field(default=0.0, ge=0)  # in each zone
    seconds: Seconds = Spread(median=600.0)


class Spot(_Part):
    """The market, for workers that spec.placement.spot puts there."""

    zones: int = Field(default=3, ge=1, le=100)
    per_hour: float = Field(default=0.0, ge=0)  # of each worker, by itself
    fleet_per_hour: float = Field(default=0.0, ge=0)  # of one worker of all
    burst: Burst = Burst()
    notice: float = Field(default=30.0, ge=0)  # seconds from the notice to the end; 0: none comes
    shortage: Shortage = Shortage()
    price_share: float = Field(default=1.0, ge=0, le=1)  # of --price, for workers without a class


class Scenario(_Part):
    """All of it; times in seconds."""

    cold_start: ColdStart | None = None  # None: as long as the calibration's load took
    stop_seconds: float = Field(default=1.0, ge=0)  # from Stop to the end of an idle worker
    drain_timeout: float = Field(default=60.0, ge=0)
    pool: Pool = Pool()
    spot: Spot = Spot()

    @classmethod
    def read(cls, path: Path) -> Self:
        """From YAML. ScenarioError names the field."""
        try:
            return cls.model_validate(yaml.safe_load(path.read_text()) or {})
        except OSError as error:
            raise ScenarioError(f"the scenario {path} cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ScenarioError(f"{path}: expected YAML: {error}") from error
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ScenarioError(f"{path}: {wrong}") from error

    def starting(self, load_seconds: float) -> ColdStart:
        """The phases; where none are said, the calibration's load is all of them."""
        return self.cold_start or ColdStart(load=Spread(median=load_seconds))

    def claiming(self, load_seconds: float, *, is_loaded: bool = False) -> ColdStart:
        """The phases of a claimed worker; `is_loaded`: as a standby it held the model.

        Where none are said, those of a cold start after its process runs; and where a cold start
        is one number, as long as the calibration's load took.
        """
        claim = self.pool.loaded_claim if is_loaded else self.pool.claim
        if claim is not None:
            return ColdStart(weights=claim.weights, load=claim.load, first_token=claim.first_token)
        start = self.starting(load_seconds)
        if start.has_node_or_image:
            return start.model_copy(update={"node": NOTHING, "image": NOTHING})
        return ColdStart(load=Spread(median=min(load_seconds, start.median)))

    def standing_by(self, load_seconds: float, *, loads: bool = False) -> ColdStart:
        """The phases of a standby: node and image; all of a cold start that is one number.

        `loads`: it loads a model before it can be claimed, so that it has all phases.
        """
        if self.pool.start is not None:
            return ColdStart(image=self.pool.start)
        start = self.starting(load_seconds)
        if start.has_node_or_image:
            return start if loads else ColdStart(node=start.node, image=start.image)
        return ColdStart(image=Spread(median=start.median))

"""What a simulation assumes beyond trace and manifest: cold starts, drains, interruptions."""

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
    def median(self) -> float:
        """Of all phases together."""
        return sum(spread.median for spread in self.phases.values())


class Burst(_Part):
    """The provider takes many workers of one zone back at once."""

    per_hour: float = Field(default=0.0, ge=0)  # in each zone
    share: float = Field(default=0.5, gt=0, le=1)  # of the zone's workers


class Spot(_Part):
    """Interruptions: each worker is on a spot node of one of the zones, in turn."""

    zones: int = Field(default=3, ge=1, le=100)
    per_hour: float = Field(default=0.0, ge=0)  # of each worker, by itself
    burst: Burst = Burst()

    @property
    def is_on(self) -> bool:
        """Whether any worker is ever taken back."""
        return self.per_hour > 0 or self.burst.per_hour > 0


class Scenario(_Part):
    """All of it; times in seconds."""

    cold_start: ColdStart | None = None  # None: as long as the calibration's load took
    stop_seconds: float = Field(default=1.0, ge=0)  # from Stop to the end of an idle worker
    drain_timeout: float = Field(default=60.0, ge=0)
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

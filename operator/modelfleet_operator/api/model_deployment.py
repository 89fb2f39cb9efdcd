"""The typed view of a ModelDeployment; the CRD is generated from it (see crd.py)."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from .api_model import ApiModel, Metadata, Rule
from .fleet_spec import ColdStart, Placement, Queue, Rollout, Routing, Scaling
from .model_spec import Model
from .worker_spec import Engine, PodTemplate, Quantization

GROUP, VERSION, KIND, PLURAL = "modelfleet.dev", "v1alpha1", "ModelDeployment", "modeldeployments"
API_VERSION = f"{GROUP}/{VERSION}"


class Spec(ApiModel):
    """What the user wants."""

    rules = (
        Rule(
            rule="!has(self.placement) || !has(self.placement.spot) || "
            "!has(self.placement.spot.onDemandBase) || (has(self.scaling) && "
            "has(self.scaling.mode) && self.scaling.mode == 'External') || "
            "self.placement.spot.onDemandBase <= (has(self.scaling) && "
            "has(self.scaling.maxReplicas) ? self.scaling.maxReplicas : has(self.scaling) && "
            "has(self.scaling.minReplicas) && self.scaling.minReplicas > 0 ? "
            "self.scaling.minReplicas : 1)",
            message="placement.spot.onDemandBase must not be greater than scaling.maxReplicas",
        ),
    )

    model: Model
    """Which model, and how its weights are read. Required."""
    quantization: Quantization = Quantization()
    """Weights of fewer bits. Default: every field's own default."""
    engine: Engine = Engine()
    """Limits of one worker's engine. Default: every field's own default."""
    scaling: Scaling = Scaling()
    """How many workers, and when. Default: every field's own default."""
    placement: Placement = Placement()
    """On which nodes workers run. Default: every field's own default."""
    cold_start: ColdStart = ColdStart()
    """What happens to requests while no worker is ready. Default: every field's own default."""
    queue: Queue = Queue()
    """Who is next when more requests come than the workers keep up with. Default: every field's own
    default."""
    routing: Routing = Routing()
    """Which of the workers a request goes to. Default: every field's own default."""
    rollout: Rollout = Rollout()
    """How a change replaces the workers that are there. Default: every field's own default."""
    pod_template: PodTemplate = PodTemplate()
    """What is laid under the worker pods. Default: empty."""

    @model_validator(mode="after")
    def _base_fits(self) -> Self:
        spot, scaling = self.placement.spot, self.scaling
        if spot is None or scaling.mode == "External":
            return self
        if spot.on_demand_base > scaling.ceiling:
            raise ValueError(
                f"{self.rules[0].message}, found {spot.on_demand_base} > {scaling.ceiling}"
            )
        return self


class ModelDeployment(ApiModel):
    """One model and the fleet of workers that serves it."""

    api_version: Literal["modelfleet.dev/v1alpha1"]
    kind: Literal["ModelDeployment"]
    metadata: Metadata
    spec: Spec
    status: Any = Field(default=None, exclude=True, repr=False)  # see status.py

    @property
    def full_name(self) -> str:
        """`namespace/name`: what the model is called in every part."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def served_names(self) -> tuple[str, ...]:
        """Short names that it asks for; which it owns is decided among all deployments."""
        names = self.spec.model.served_names
        return (self.metadata.name,) if names is None else names

"""The typed view of a WarmPool: workers that are started before any model needs them.

The CRD is generated from it as ModelDeployment's is from model_deployment.py.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from .api_model import DNS_LABEL, ApiModel, Metadata, as_tuple, unique
from .fleet_spec import ClassName
from .formats import Format, Memory, Money

KIND, PLURAL = "WarmPool", "warmpools"


ModelName = Annotated[
    str, Format(what="the name of a ModelDeployment", pattern=DNS_LABEL, max_length=63)
]


class WarmPoolSpec(ApiModel):
    """How many workers stand by, and where."""

    accelerator: ClassName | None = None
    """Name of the AcceleratorClass that each standby takes a place of; it serves deployments that
    are placed on this class. `modelfleet up` reads its price only. Default: none, for deployments
    that name no class."""
    size: Annotated[int, Field(ge=0, le=1000)] = 1
    """Standbys to keep: workers without a model, beside those that deployments have claimed.
    Default: 1."""
    memory: Memory | None = None
    """Memory that each standby's container requests of its node; a deployment whose workers request
    more claims none of them. A quantity (8Gi). Default: what the operator gives every worker
    (chart value worker.resources), else 4Gi."""
    models: Annotated[
        tuple[ModelName, ...],
        Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
        AfterValidator(unique),
        BeforeValidator(as_tuple),
    ] = ()
    """Names of ModelDeployments of this namespace whose files each standby fetches ahead, into the
    cache that the workers of its node share if there is one (chart value worker.nodeCache); a
    deployment that is not among them claims standbys as well. Default: none."""
    loaded_model: ModelName | None = None
    """Name of a ModelDeployment of this namespace whose weights each standby holds in memory,
    asleep: a claim of this deployment serves at once, one of another loads its own model in their
    place. `memory` must hold the model. Default: none."""
    max_hourly_cost: Money | None = None
    """What the standbys together may cost an hour, by the price of their AcceleratorClass: more are
    not kept, whatever `size` says. A claimed one costs its deployment. A quantity in a string
    ("20"). Default: no limit."""

    @property
    def named_models(self) -> tuple[str, ...]:
        """Every ModelDeployment that it names, once."""
        loaded = (self.loaded_model,) if self.loaded_model else ()
        return tuple(dict.fromkeys((*loaded, *self.models)))


class WarmPool(ApiModel):
    """Workers that stand by, so that a scale-up need not wait for a node, an image and a start."""

    api_version: Literal["modelfleet.dev/v1alpha1"]
    kind: Literal["WarmPool"]
    metadata: Metadata
    spec: WarmPoolSpec
    status: Any = Field(default=None, exclude=True, repr=False)  # see pool_status.py

    @property
    def full_name(self) -> str:
        """`namespace/name`."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

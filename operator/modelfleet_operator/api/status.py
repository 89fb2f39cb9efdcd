"""The shape of a ModelDeployment's status, for the CRD; `decisions/status.py` has the values.

Every number in it was observed. Times are RFC 3339 in UTC, as everywhere in Kubernetes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.config import JsonDict

from .api_model import ApiModel

OPAQUE: JsonDict = {"x-kubernetes-preserve-unknown-fields": True}
Text = Annotated[str, Field(max_length=1024)]
NodeName = Annotated[str, Field(max_length=253)]
Seconds = Annotated[str, Field(max_length=32)]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class ConditionSchema(ApiModel):
    """One thing that is true, false or unknown about the object (Kubernetes' own shape)."""

    type: Annotated[str, Field(max_length=316)]
    """Ready, Reconciling or Stalled (kstatus), or one of Modelfleet's own. Key of the list."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(max_length=128)]
    """Why, as one word for programs."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """Why, as a sentence for people."""
    last_transition_time: Time
    """When `status` changed last."""
    observed_generation: int | None = None
    """metadata.generation that the condition speaks of."""


class QueueSchema(ApiModel):
    """Requests of this model, summed over all gateways."""

    waiting: Annotated[int, Field(ge=0)]
    """Requests that wait for a worker."""
    running: Annotated[int, Field(ge=0)]
    """Requests that run on workers."""


class ScalingStepSchema(ApiModel):
    """One change of the number of workers."""

    time: Time
    """When it was decided."""
    before: Annotated[int, Field(ge=0, alias="from")]
    """Workers wanted before."""
    after: Annotated[int, Field(ge=0, alias="to")]
    """Workers wanted since."""
    reason: Text
    """Why, as a sentence."""


class PhaseTimesSchema(ApiModel):
    """What each phase of a start took, as durations (2.5s)."""

    node: Seconds | None = None
    """From the worker's creation until it had a node; 0s on one machine."""
    image: Seconds | None = None
    """Until its process ran: the pull of its image above all; 0s on one machine."""
    weights: Seconds | None = None
    """The download of the model's files; 0s where the node had them."""
    load: Seconds | None = None
    """From the process's start until it computes, without the download."""
    first_token: Seconds | None = None
    """From there until it was ready to answer."""
    total: Seconds | None = None
    """From the worker's creation until it was ready."""


class ColdStartStepSchema(ApiModel):
    """The phase that goes on."""

    name: Literal["node", "image", "weights", "load", "firstToken"]
    """Which of the phases in `seconds`."""
    since: Time
    """When it began."""


class LearnedColdStartSchema(ApiModel):
    """What starts took on one accelerator class."""

    accelerator: Annotated[str, Field(max_length=63)]
    """The AcceleratorClass; empty: none was asked for."""
    wakes: Annotated[int, Field(ge=0)]
    """How many starts are counted: the last 5 at most."""
    seconds: PhaseTimesSchema
    """The median of each phase, and of the whole."""


class ColdStartSchema(ApiModel):
    """The worker that is going to be ready next."""

    phase: Annotated[str, Field(max_length=64)]
    """What it is doing: Asleep, Pending, Starting, Download, Imports, Weights, Cache,
    Warmup or BackOff."""
    percent: Annotated[int, Field(ge=0, le=100)]
    """How much of the whole load is done, 0 to 100."""
    eta: Time | None = None
    """When it will be ready; absent: not known yet."""
    since: Time | None = None
    """Since when workers are wanted and none is ready; absent: another one is ready."""
    deadline: Time | None = None
    """When spec.coldStart.deadline is over; absent: another worker is ready."""
    step: ColdStartStepSchema | None = None
    """The phase that goes on; absent: no worker exists yet."""
    seconds: PhaseTimesSchema | None = None
    """The phases that are over."""


class CostSchema(ApiModel):
    """What the deployment costs now."""

    per_hour: Annotated[str, Field(max_length=32)]
    """Sum of the prices of its workers' accelerator classes; a worker that has no node yet costs
    nothing, a starting or draining one as much as any other."""
    currency: Annotated[str, Field(max_length=3)] | None = None
    """What it is in, as the classes say; absent: they do not."""


Amount = Annotated[str, Field(max_length=32)]
Sentence = Annotated[str, Field(max_length=512)]
Basis = Literal["Measured", "Estimated"]


class RunnerUpSchema(ApiModel):
    """The next best place, and why it is not the best."""

    accelerator: Annotated[str, Field(max_length=63)]
    """Its AcceleratorClass."""
    capacity: Literal["Spot", "OnDemand"] | None = None
    """Spot or OnDemand; absent: spec.placement.spot asks for neither."""
    cost_per_million_tokens: Amount
    """What a million generated tokens cost there."""
    tokens_per_second: Amount
    """Tokens that one worker generates there, within scaling.slo."""
    basis: Basis
    """Measured: on workers of this model. Estimated: from memoryBandwidth."""
    why: Sentence
    """What the chosen one has before it."""


class ExcludedSchema(ApiModel):
    """A class that is not chosen."""

    accelerator: Annotated[str, Field(max_length=63)]
    """Name of the class."""
    why: Sentence
    """What rules it out, or what it lacks to be compared."""


class PlacementSchema(ApiModel):
    """Where new workers go, and what that was decided by."""

    accelerator: Annotated[str, Field(max_length=63)]
    """The AcceleratorClass."""
    capacity: Literal["Spot", "OnDemand"] | None = None
    """Spot or OnDemand; absent: spec.placement.spot asks for neither."""
    cost_per_million_tokens: Amount
    """What a million generated tokens cost there."""
    currency: Annotated[str, Field(max_length=3)] | None = None
    """What costs are in, as the classes say; absent: they do not."""
    tokens_per_second: Amount
    """Tokens that one worker generates there, within scaling.slo."""
    basis: Basis
    """Measured: on workers of this model. Estimated: from memoryBandwidth."""
    model_memory: Amount
    """Memory that a worker needs (40Gi)."""
    memory_basis: Annotated[str, Field(max_length=64)]
    """How that is known."""
    runner_up: RunnerUpSchema | None = None
    """The next best place; absent: there is none."""
    excluded: (
        Annotated[
            list[ExcludedSchema],
            Field(max_length=8, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
        ]
        | None
    ) = None
    """Classes that are not chosen; absent: none."""


class InterruptionSchema(ApiModel):
    """A worker that was told to go."""

    worker: Annotated[str, Field(max_length=253)]
    """Its pod."""
    node: NodeName | None = None
    """Its node."""
    kind: Annotated[str, Field(max_length=32)]
    """Why: SpotReclaim, Rebalance, Maintenance, NodeShutdown, NodeDeletion, Disruption, Cordon,
    NodeLost, Eviction, Taint or Preemption."""
    source: Annotated[str, Field(max_length=256)]
    """What said it: a taint, condition, label or annotation."""
    deadline: Time | None = None
    """By when it may be gone; absent: nothing says so."""


def _list(kind: str, length: int, *keys: str) -> Any:
    extra: JsonDict = {"x-kubernetes-list-type": kind}
    if keys:
        extra["x-kubernetes-list-map-keys"] = list(keys)
    return Field(max_length=length, json_schema_extra=extra)


CONDITIONS = _list("map", 16, "type")


class StatusSchema(ApiModel):
    """What was observed."""

    observed_generation: int | None = None
    """metadata.generation that this status speaks of."""
    conditions: Annotated[list[ConditionSchema], CONDITIONS] | None = None
    """Ready, Reconciling, Stalled (kstatus), NameConflict, PlacementLimited and BudgetLimited, each
    with its reason."""
    replicas: Annotated[int, Field(ge=0)] | None = None
    """Workers that exist: starting ones count, stopping ones do not."""
    desired_replicas: Annotated[int, Field(ge=0)] | None = None
    """Workers wanted now."""
    ready_replicas: Annotated[int, Field(ge=0)] | None = None
    """Workers that every connected gateway can route to."""
    selector: Annotated[str, Field(max_length=512)] | None = None
    """Label selector of the worker pods, for the scale subresource."""
    revision: Annotated[str, Field(max_length=64)] | None = None
    """Hash of everything in a worker's pod as the spec asks for it, image included."""
    queue: QueueSchema | None = None
    """Requests of this model in all gateways; absent: no gateway says."""
    scaling_history: Annotated[list[ScalingStepSchema], _list("atomic", 10)] | None = None
    """The last 10 changes of the number of workers, oldest first."""
    cold_start: ColdStartSchema | None = None
    """How far the next worker is; absent: one is ready."""
    cold_starts: Annotated[list[LearnedColdStartSchema], _list("map", 8, "accelerator")] | None = (
        None
    )
    """What the last starts took, for each accelerator class; absent: there was none yet."""
    weights_on: Annotated[list[NodeName], _list("atomic", 8)] | None = None
    """Nodes whose cache (chart value worker.nodeCache) has the model's files since a worker of this
    revision became ready there, the latest last; absent: none is known."""
    cost: CostSchema | None = None
    """What it costs; absent: a worker runs outside the accelerator classes, or a class has no
    price."""
    placement: PlacementSchema | None = None
    """With placement.strategy Cheapest, where new workers go and why; absent: no class could be
    rated yet."""
    spot_replicas: Annotated[int, Field(ge=0)] | None = None
    """Of `replicas` those on spot; absent: neither the spec nor a node says anything of it."""
    interruptions: Annotated[list[InterruptionSchema], _list("map", 16, "worker")] | None = None
    """Workers that were told to go and exist still, 16 at most; absent: none."""
    url: Annotated[str, Field(max_length=1024)] | None = None
    """Base URL of OpenAI's API at the gateways, where clients ask for the model; absent: the
    operator was not told (--endpoint)."""
    memory: Annotated[dict[str, Any], Field(json_schema_extra=OPAQUE)] | None = None
    """What the operator must remember across its own restart. Not an API: it changes freely."""

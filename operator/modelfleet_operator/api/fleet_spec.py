"""How many workers there are, on which nodes, and how they come and go."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ..decisions.schedule import cron_problem
from ..decisions.standby import NO_POOL
from .api_model import DNS_LABEL, ApiModel, Rule, as_tuple, unique
from .formats import CronLine, Duration, Format, Money, Percent, Portion, TimeZone

ClassName = Annotated[
    str, Format(what="the name of an AcceleratorClass", pattern=DNS_LABEL, max_length=63)
]

PoolName = Annotated[
    str,
    Format(what="the name of a WarmPool, or None", pattern=f"{NO_POOL}|{DNS_LABEL}", max_length=63),
]


class Slo(ApiModel):
    """Latency that requests get: what a worker takes is learned from it, and misses add workers."""

    ttft_p95: Duration | None = None
    """Time to the first token that 95 % of requests keep. A duration (2s, 500ms). Default: none is
    asked for; beside a tpotP95, 2s."""
    tpot_p95: Duration | None = None
    """Time of each further token that 95 % of requests keep. A duration (80ms). Default: none is
    asked for; beside a ttftP95, twice that of one request alone."""


class Schedule(ApiModel):
    """From a moment of `start` to the next of `end` more workers are kept."""

    start: CronLine
    """When it begins: five fields of cron (0 8 * * 1-5). Workers are started ahead, so that they
    are ready then. Required."""
    end: CronLine
    """When it ends: five fields of cron. Required."""
    time_zone: TimeZone = "UTC"
    """A zone of the IANA database (Europe/Berlin), with its daylight saving time. Default: UTC."""
    min_replicas: Annotated[int, Field(ge=1, le=1000)]
    """Workers kept meanwhile, at most maxReplicas. Required."""

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        for line in (self.start, self.end):
            if problem := cron_problem(line, self.time_zone):
                raise ValueError(problem)
        return self


class Scaling(ApiModel):
    """How many workers, and when."""

    rules = (
        Rule(
            rule="!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
            message="minReplicas must not be greater than maxReplicas",
        ),
        Rule(
            rule="!has(self.replicas) || self.mode == 'External'",
            message="replicas is obeyed in mode External only: set mode to External, or remove "
            "replicas and use minReplicas and maxReplicas",
        ),
        Rule(
            rule="!has(self.schedules) || self.schedules.all(s, s.minReplicas <= "
            "(has(self.maxReplicas) ? self.maxReplicas : "
            "self.minReplicas > 0 ? self.minReplicas : 1))",
            message="minReplicas of a schedule must not be greater than maxReplicas",
        ),
    )

    mode: Literal["Auto", "External"] = "Auto"
    """Auto: Modelfleet decides the count from the queue. External: `replicas` says it, written by a
    person, kubectl scale, an HPA or KEDA. Default: Auto."""
    min_replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Workers kept in mode Auto even without requests; 0 lets the model sleep. In mode External the
    count until `replicas` is written, and 0 says that whoever writes it wakes the model: requests
    wait then (`coldStart.holdTimeout`), while otherwise `replicas: 0` refuses them. Default: 1."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Workers at most in mode Auto; mode External ignores it. Default: minReplicas, at least 1."""
    replicas: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Workers wanted in mode External, where the scale subresource writes. An HPA reads it before
    it writes, so give it a first value. Default: minReplicas."""
    target_queue_depth: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Requests, waiting in gateways and running on workers together, that one worker should have;
    mode Auto adds workers above it. Default: 16; beside slo learned from what workers do, together
    with the requests a second that one can take."""
    idle_timeout: Duration = 300.0
    """Time without any request after which mode Auto lets the last worker sleep, if minReplicas is
    0. A duration (90s, 1h30m). Default: 5m."""
    scale_down_delay: Duration | None = None
    """Mode Auto keeps as many workers as were needed at the peak of this past time, at least. A
    duration (90s, 1h30m). Default: 5m; beside slo without targetQueueDepth by the time that a start
    takes, as it was measured."""

    slo: Slo = Slo()
    """Latency that requests get. Default: none is asked for."""
    schedules: Annotated[
        tuple[Schedule, ...],
        Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
        BeforeValidator(as_tuple),
    ] = ()
    """Times at which mode Auto keeps more workers than minReplicas. Default: none."""
    max_hourly_cost: Money | None = None
    """What all workers together may cost an hour, by the prices of their AcceleratorClasses: above
    it mode Auto starts none beyond minReplicas. It ends none. A quantity in a string ("20").
    Default: no limit."""

    @property
    def ceiling(self) -> int:
        """Workers at most in mode Auto."""
        return max(self.min_replicas, 1) if self.max_replicas is None else self.max_replicas

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if self.min_replicas > self.ceiling:
            raise ValueError(
                f"minReplicas must not be greater than maxReplicas, found {self.min_replicas} > "
                f"{self.max_replicas}"
            )
        if self.replicas is not None and self.mode != "External":
            raise ValueError(self.rules[1].message)
        for schedule in self.schedules:
            if schedule.min_replicas > self.ceiling:
                raise ValueError(self.rules[2].message)
        return self


class SpotPlacement(ApiModel):
    """Whether workers run on capacity that the provider may take back."""

    rules = (
        Rule(
            rule="!has(self.maxSpotShare) || !has(self.policy) || self.policy == 'Prefer'",
            message="maxSpotShare belongs to policy Prefer: set it, or remove maxSpotShare",
        ),
    )

    policy: Literal["Never", "Prefer", "Only"] = "Prefer"
    """Never: on demand only. Prefer: on spot, and on demand while spot is short. Only: on spot,
    whatever that takes. Default: Prefer."""
    on_demand_base: Annotated[int, Field(ge=0, le=1000)] = 0
    """Workers that are never on spot; they come first. At most maxReplicas. Default: 0."""
    max_spot_share: Percent | None = None
    """Of all workers so many at most are on spot, with policy Prefer; percent ("50%"). Default:
    100%."""

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if self.max_spot_share is not None and self.policy != "Prefer":
            raise ValueError(self.rules[0].message)
        return self


class Placement(ApiModel):
    """On which nodes workers run; one machine (`modelfleet up`) ignores it."""

    rules = (
        Rule(
            # The API server checks `default: {}` by the rules before it fills in what is in it.
            rule="!has(self.accelerators) || "
            "self.accelerators.all(a, self.accelerators.exists_one(b, a == b))",
            message="accelerators must name each class once",
        ),
        Rule(
            rule="!has(self.strategy) || self.strategy != 'Cheapest' || "
            "(has(self.accelerators) && size(self.accelerators) > 0)",
            message="strategy Cheapest chooses among accelerators: name the classes",
        ),
        Rule(
            rule="!has(self.minSaving) || (has(self.strategy) && self.strategy == 'Cheapest')",
            message="minSaving belongs to strategy Cheapest: set it, or remove minSaving",
        ),
    )

    accelerators: Annotated[
        tuple[ClassName, ...],
        Field(max_length=8, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
        AfterValidator(unique),
        BeforeValidator(as_tuple),
    ] = ()
    """Names of AcceleratorClasses, best first; a worker that finds no node of one class is placed
    on the next. Default: none, the scheduler and spec.podTemplate alone choose."""
    strategy: Literal["InOrder", "Cheapest"] = "InOrder"
    """InOrder: the first of the classes that has room. Cheapest: of those that can hold the model
    and keep scaling.slo the one with the lowest price per generated token, as measured on workers
    of this model, or estimated by its memoryBandwidth until then. Default: InOrder."""
    min_saving: Percent | None = None
    """With strategy Cheapest, how much cheaper per token another class must be for running workers
    to be replaced there, one after the other; percent ("20%"). New workers go there anyway.
    Default: 20%."""
    fallback_after: Duration = 60.0
    """Time that a worker waits for a node of one class before the next class is tried; a class that
    was short is tried again for new workers 5 minutes later. Longer than an autoscaler of nodes
    needs, where there is one. A duration (90s, 1h30m). Default: 1m."""
    spot: SpotPlacement | None = None
    """Spot or on demand, where nodes say by a provider's label which they are. Default: pods ask
    for neither."""

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if self.strategy == "Cheapest" and not self.accelerators:
            raise ValueError(self.rules[1].message)
        if self.min_saving is not None and self.strategy != "Cheapest":
            raise ValueError(self.rules[2].message)
        return self


class ColdStart(ApiModel):
    """What happens to requests while no worker is ready."""

    hold_timeout: Duration = 600.0
    """Time that a request waits for a worker before it is refused with 503. A duration (90s,
    1h30m). Default: 10m."""
    deadline: Duration = 1800.0
    """Time that a start may take while no other worker is ready, from its being wanted to the first
    ready worker. When it is over, Stalled names the phase that takes so long and requests are
    refused at once with 503; the start goes on. A duration (90s, 1h30m). Default: 30m."""
    max_queue: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Requests that may wait in one gateway; one more is refused with 429. Default: 1000."""
    warm_pool: PoolName | None = None
    """Name of the WarmPool of this namespace whose standbys become workers before new ones are
    started; None (the word): no pool is used. Default: any pool of the namespace that fits."""


class Queue(ApiModel):
    """Who is next when more requests come than the workers keep up with."""

    overload: Literal["Fifo", "NewestFirst"] = "Fifo"
    """Fifo: in order of arrival, as many on a worker as it has slots. NewestFirst: once the oldest
    has waited for more than 1.2 s the newest goes first, and a worker gets no more requests than
    keep its latency, so that most are served in time and some wait long; only while all who wait
    could still be served before their holdTimeout. Default: Fifo."""


class Routing(ApiModel):
    """Which of the workers a request goes to."""

    policy: Literal["PrefixAware", "LeastOutstanding"] = "PrefixAware"
    """PrefixAware: to the worker that has read most of the prompt's beginning before, which is in
    its prefix cache then, unless it has more than its share to do; where none has, by a hash of the
    conversation, at low load to few of the workers. LeastOutstanding: to the worker with the fewest
    requests. Default: PrefixAware."""


class Rollout(ApiModel):
    """How a change of what runs in a worker replaces the workers that are there."""

    rules = (
        Rule(
            rule="!has(self.maxSurge) || !has(self.maxUnavailable) || "
            "!(string(self.maxSurge) in ['0', '0%'] && "
            "string(self.maxUnavailable) in ['0', '0%'])",
            message="maxSurge and maxUnavailable must not both be 0: nothing could be replaced",
        ),
    )

    max_surge: Annotated[int | str, Portion(1000)] = 1
    """Workers beyond those wanted that may exist while a change rolls, draining ones included since
    each has its accelerator: a count, or percent of the wanted ones rounded up ("25%"). 0 where no
    accelerator is to spare: old workers drain first then. Default: 1."""
    max_unavailable: Annotated[int | str, Portion(1000)] = 0
    """Ready workers that may be missing because a change rolls: a count, or percent of the wanted
    ones rounded down ("25%"). Default: 0."""
    revision_history_limit: Annotated[int, Field(ge=0, le=100)] = 10
    """Old revisions that are kept as ControllerRevisions, beside those that are in use. Default:
    10."""

    @model_validator(mode="after")
    def _something_moves(self) -> Self:
        if {self.max_surge, self.max_unavailable} <= {0, "0%"}:
            raise ValueError(self.rules[0].message)
        return self

"""The typed view of an AcceleratorClass: what a worker asks of a node, and what an hour costs.

The CRD is generated from it as ModelDeployment's is from model_deployment.py.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic.config import JsonDict

from .api_model import ApiModel, Metadata, Rule, as_tuple
from .formats import Format, Fraction, Memory, Moment, Money

KIND, PLURAL = "AcceleratorClass", "acceleratorclasses"

_QUALIFIED = "([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)"
_WORD = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
LabelKey = Annotated[
    str, Format(what="a label's key", pattern=f"{_QUALIFIED}?{_WORD}", max_length=317)
]
LabelValue = Annotated[str, Format(what="a label's value", pattern=f"({_WORD})?", max_length=63)]


Currency = Annotated[
    str, Format(what="a currency of three letters such as EUR", pattern="[A-Z]{3}", max_length=3)
]


def _bounded_selector(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > SELECTOR_LENGTH:
        raise ValueError(f"expected at most {SELECTOR_LENGTH} labels, found {len(value)}")
    return value


SELECTOR_LENGTH = 16
SELECTOR: JsonDict = {"maxProperties": SELECTOR_LENGTH, "x-kubernetes-map-type": "atomic"}
TOLERATIONS: JsonDict = {"x-kubernetes-list-type": "atomic"}


class Resource(ApiModel):
    """The extended resource that device plugins or drivers advertise on nodes."""

    name: Annotated[
        str,
        Format(
            what="an extended resource such as nvidia.com/gpu",
            pattern=f"{_QUALIFIED}{_WORD}",
            max_length=317,
        ),
    ]
    """Name of the extended resource, such as nvidia.com/gpu. Required."""
    count: Annotated[int, Field(ge=1, le=64)] = 1
    """How many of it one worker takes. Default: 1."""


class Toleration(ApiModel):
    """A taint of nodes that workers accept, as in a pod's spec."""

    rules = (
        Rule(
            rule="self.operator != 'Exists' || !has(self.value) || self.value == ''",
            message="a toleration with operator Exists takes no value: remove it",
        ),
        Rule(
            rule="(has(self.key) && self.key != '') || self.operator == 'Exists'",
            message="a toleration without a key needs operator Exists",
        ),
        Rule(
            rule="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            message="tolerationSeconds belongs to effect NoExecute: remove it, or set the effect",
        ),
    )

    key: LabelKey | None = None
    """Key of the taint. Default: every key, with operator Exists."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """Whether the taint's value must be `value`, or may be anything. Default: Equal."""
    value: LabelValue | None = None
    """Value of the taint with operator Equal. Default: the empty value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint. Default: every effect."""
    toleration_seconds: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Seconds that a worker stays after a NoExecute taint came. Default: for ever."""

    @model_validator(mode="after")
    def _is_one_that_kubernetes_takes(self) -> Self:
        for is_right, rule in zip(
            (
                self.operator != "Exists" or not self.value,
                self.key is not None or self.operator == "Exists",
                self.toleration_seconds is None or self.effect == "NoExecute",
            ),
            self.rules,
            strict=True,
        ):
            if not is_right:
                raise ValueError(rule.message)
        return self


class Selector(ApiModel):
    """A CEL expression about a device, as in a ResourceClaim."""

    expression: Annotated[
        str, Format(what="a CEL expression", pattern=r"[\s\S]+", max_length=10_240)
    ]
    """What must hold of a device: device.attributes["gpu.example.com"].model == "H100". The API
    server checks it when the first worker is made. Required."""


class DeviceClaim(ApiModel):
    """Devices by dynamic resource allocation (resource.k8s.io/v1, Kubernetes 1.34)."""

    device_class_name: Annotated[
        str,
        Format(
            what="the name of a DeviceClass",
            pattern=r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?",
            max_length=253,
        ),
    ]
    """Name of the DeviceClass, such as gpu.nvidia.com. Required."""
    count: Annotated[int, Field(ge=1, le=64)] = 1
    """How many devices one worker takes. Default: 1."""
    selectors: Annotated[
        tuple[Selector, ...],
        Field(max_length=8, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
        BeforeValidator(as_tuple),
    ] = ()
    """What must hold of each of them, all together. Default: any device of the class."""


_SAYS_NOTHING = "price says nothing: give onDemand, spot, or both"


class PriceChange(ApiModel):
    """What an hour costs from a moment on."""

    rules = (Rule(rule="has(self.onDemand) || has(self.spot)", message=_SAYS_NOTHING),)

    from_: Annotated[Moment, Field(alias="from")]
    """From when on, until the next change: 2027-01-01T00:00:00Z. Required."""
    on_demand: Money | None = None
    """As price.onDemand. Default: not known."""
    spot: Money | None = None
    """As price.spot. Default: as onDemand."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.on_demand is None and self.spot is None:
            raise ValueError(self.rules[0].message)
        return self


def _one_a_moment(changes: tuple[PriceChange, ...]) -> tuple[PriceChange, ...]:
    if len({change.from_ for change in changes}) < len(changes):
        raise ValueError("expected one change a moment, found two with the same `from`")
    return changes


class Price(ApiModel):
    """What an hour costs."""

    rules = (Rule(rule="has(self.onDemand) || has(self.spot)", message=_SAYS_NOTHING),)

    on_demand: Money | None = None
    """An hour of what one worker takes of a node, on demand; a quantity in a string ("2.50").
    Default: not known."""
    spot: Money | None = None
    """The same on spot. Default: as onDemand."""
    currency: Currency | None = None
    """What the prices are in, the same in all classes that a deployment names: three letters
    (EUR). Default: not said."""
    changes: Annotated[
        tuple[PriceChange, ...],
        Field(
            max_length=16,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["from"],
            },
        ),
        AfterValidator(_one_a_moment),
        BeforeValidator(as_tuple),
    ] = ()
    """Other prices from a moment on, each until the next; what stands above counts before the
    first. Default: none."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.on_demand is None and self.spot is None:
            raise ValueError(self.rules[0].message)
        return self


class AcceleratorSpec(ApiModel):
    """What a worker of this class asks of its node."""

    rules = (
        Rule(
            rule="!has(self.nodeSelector) || "
            f"self.nodeSelector.all(key, key.matches('^{_QUALIFIED}?{_WORD}$'))",
            message="nodeSelector's keys must be keys of labels",
        ),
        Rule(
            rule="!(has(self.resource) && has(self.deviceClaim))",
            message="a worker takes a resource or a deviceClaim: remove one of them",
        ),
        Rule(
            rule="!has(self.fraction) || self.fraction.startsWith('1/') || "
            "(double(self.fraction) > 0.0 && double(self.fraction) <= 1.0)",
            message="fraction is a part of one device: above 0, and at most 1",
        ),
    )

    resource: Resource | None = None
    """Extended resource that each worker takes. Default: none, labels and taints alone choose."""
    device_claim: DeviceClaim | None = None
    """Devices that each worker claims, instead of a resource; the operator makes the
    ResourceClaimTemplate. Default: none."""
    fraction: Fraction = Decimal(1)
    """Which part of a device one unit of the resource, or one device of the claim, is where devices
    are shared: 1/7 of a MIG profile, 0.25 of four time-sliced replicas. memory, memoryBandwidth and
    price are then those of whole devices, and a worker has that part of each. At most 1, a whole
    device. Default: 1."""
    memory: Memory | None = None
    """Memory for the model, of all that one worker takes together (80Gi). Where
    spec.placement.strategy is Cheapest, models that need more go elsewhere. Default: not known."""
    memory_bandwidth: Memory | None = None
    """Bytes a second that the memory delivers, as the data sheet says, of all that one worker takes
    together (3350G). Speed is estimated by it until it was measured. Default: not known."""
    node_selector: Annotated[
        dict[LabelKey, LabelValue],
        BeforeValidator(_bounded_selector),
        Field(json_schema_extra=SELECTOR),
    ] = {}  # noqa: RUF012  pydantic copies it, and the model is frozen
    """Labels that a node must have. Default: any node."""
    tolerations: Annotated[
        tuple[Toleration, ...],
        Field(max_length=16, json_schema_extra=TOLERATIONS),
        BeforeValidator(as_tuple),
    ] = ()
    """Taints of nodes that workers accept. Default: none."""
    price: Price | None = None
    """What an hour of it costs; `status.cost` of deployments adds it up. Default: not known."""

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if self.resource is not None and self.device_claim is not None:
            raise ValueError(self.rules[1].message)
        if not 0 < self.fraction <= 1:
            raise ValueError(self.rules[2].message)
        return self


class AcceleratorClass(ApiModel):
    """One kind of accelerator that a cluster has, for spec.placement.accelerators to name."""

    api_version: Literal["modelfleet.dev/v1alpha1"]
    kind: Literal["AcceleratorClass"]
    metadata: Metadata
    spec: AcceleratorSpec

"""The typed view of an AcceleratorClass: what a worker asks of a node, and what an hour costs.

The CRD is generated from it as ModelDeployment's is from model_deployment.py.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic.config import JsonDict

from .api_model import ApiModel, Metadata, Rule, as_tuple
from .formats import Format, Money

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


class Price(ApiModel):
    """What an hour costs."""

    rules = (
        Rule(
            rule="has(self.onDemand) || has(self.spot)",
            message="price says nothing: give onDemand, spot, or both",
        ),
    )

    on_demand: Money | None = None
    """An hour of what one worker takes of a node, on demand; a quantity in a string ("2.50").
    Default: not known."""
    spot: Money | None = None
    """The same on spot. Default: as onDemand."""
    currency: Currency | None = None
    """What the prices are in, the same in all classes that a deployment names: three letters
    (EUR). Default: not said."""

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
    )

    resource: Resource | None = None
    """Extended resource that each worker takes. Default: none, labels and taints alone choose."""
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


class AcceleratorClass(ApiModel):
    """One kind of accelerator that a cluster has, for spec.placement.accelerators to name."""

    api_version: Literal["modelfleet.dev/v1alpha1"]
    kind: Literal["AcceleratorClass"]
    metadata: Metadata
    spec: AcceleratorSpec

"""`python -m modelfleet_operator.api.crd` generates crds/ and docs/reference.md from the models.

The schemas are structural, bounded (the API server estimates the cost of CEL rules by that) and
described throughout: `kubectl explain mdep.spec` is the documentation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel

from . import accelerator_class, model_deployment, pool_status, status, warm_pool
from .api_model import Rule
from .model_deployment import GROUP, VERSION
from .structural import INT_OR_STRING, sentence, structural_schema

ROOT = Path(__file__).parents[3]
REFERENCE_FILE = ROOT / "docs" / "reference.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of `kubectl get`."""

    name: str
    type: str
    path: str
    description: str
    is_wide: bool = False  # only with `-o wide`


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiObject:
    """A kind of object that the API server keeps for us."""

    model: type[BaseModel]
    kind: str
    plural: str
    short_name: str
    scope: Literal["Namespaced", "Cluster"]
    spec: type[BaseModel]
    status: type[BaseModel] | None = None
    name_is: str  # why its name is bounded
    scale: dict[str, str] | None = None
    columns: tuple[Column, ...]

    @property
    def file(self) -> Path:
        """Where its CRD is kept."""
        return ROOT / "crds" / f"{GROUP}_{self.plural}.yaml"

    @property
    def name_rule(self) -> Rule:
        """Labels hold 63 characters, and object names may be longer."""
        return Rule(
            rule="self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",
            message=f"metadata.name must have at most 63 characters and no '.': {self.name_is}",
        )


_READY = '.status.conditions[?(@.type=="Ready")]'
_AGE = Column(
    name="Age",
    type="date",
    path=".metadata.creationTimestamp",
    description="Time since it was created",
)
MODEL_DEPLOYMENT = ApiObject(
    model=model_deployment.ModelDeployment,
    kind=model_deployment.KIND,
    plural=model_deployment.PLURAL,
    short_name="mdep",  # not `md`, which is Cluster API's MachineDeployment
    scope="Namespaced",
    spec=model_deployment.Spec,
    status=status.StatusSchema,
    name_is="it is a label of the worker pods and a name of the model",
    scale={
        "specReplicasPath": ".spec.scaling.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    },
    columns=(
        Column(
            name="Ready",
            type="string",
            path=f"{_READY}.status",
            description="Whether every gateway can route to it",
        ),
        Column(
            name="Reason",
            type="string",
            path=f"{_READY}.reason",
            description="Why it is ready or not",
        ),
        Column(
            name="Workers",
            type="integer",
            path=".status.readyReplicas",
            description="Workers that every gateway can route to",
        ),
        Column(
            name="Wanted",
            type="integer",
            path=".status.desiredReplicas",
            description="Workers wanted now",
        ),
        Column(
            name="Load%",
            type="integer",
            path=".status.coldStart.percent",
            description="How far the next worker is",
        ),
        Column(
            name="Queue",
            type="integer",
            path=".status.queue.waiting",
            description="Requests that wait for a worker",
        ),
        Column(
            name="$/h",
            type="string",
            path=".status.cost.perHour",
            description="What its workers cost an hour, by the prices of their accelerator classes",
        ),
        Column(
            name="URL",
            type="string",
            path=".status.url",
            description="Base URL of OpenAI's API, where clients ask for it",
        ),
        _AGE,
        Column(
            name="Start",
            type="string",
            path=".status.coldStarts[0].seconds.total",
            description="What a start took, from its creation until it was ready (median of 5)",
            is_wide=True,
        ),
        Column(
            name="Step",
            type="string",
            path=".status.coldStart.step.name",
            description="The phase of the start that goes on",
            is_wide=True,
        ),
        Column(
            name="Class",
            type="string",
            path=".status.placement.accelerator",
            description="The accelerator class of new workers, with strategy Cheapest",
            is_wide=True,
        ),
        Column(
            name="$/Mtok",
            type="string",
            path=".status.placement.costPerMillionTokens",
            description="What a million generated tokens cost there",
            is_wide=True,
        ),
        Column(
            name="Spot",
            type="integer",
            path=".status.spotReplicas",
            description="Workers on spot",
            is_wide=True,
        ),
        Column(
            name="Interrupted",
            type="string",
            path=".status.interruptions[*].kind",
            description="Why workers are told to go",
            is_wide=True,
        ),
        Column(
            name="Model",
            type="string",
            path=".spec.model.source",
            description="Where the model comes from",
            is_wide=True,
        ),
        Column(
            name="Revision",
            type="string",
            path=".status.revision",
            description="The one that the spec asks for",
            is_wide=True,
        ),
        Column(
            name="Message",
            type="string",
            path=f"{_READY}.message",
            description="Why it is ready or not, as a sentence",
            is_wide=True,
        ),
    ),
)
ACCELERATOR_CLASS = ApiObject(
    model=accelerator_class.AcceleratorClass,
    kind=accelerator_class.KIND,
    plural=accelerator_class.PLURAL,
    short_name="ac",
    scope="Cluster",
    spec=accelerator_class.AcceleratorSpec,
    name_is="it is a label of the worker pods",
    columns=(
        Column(
            name="Resource",
            type="string",
            path=".spec.resource.name",
            description="Extended resource that each worker takes",
        ),
        Column(
            name="Count",
            type="integer",
            path=".spec.resource.count",
            description="How many of it one worker takes",
        ),
        Column(
            name="$/h",
            type="string",
            path=".spec.price.onDemand",
            description="What an hour of it costs on demand",
        ),
        Column(
            name="Spot-$/h",
            type="string",
            path=".spec.price.spot",
            description="What an hour of it costs on spot",
        ),
        Column(
            name="Memory",
            type="string",
            path=".spec.memory",
            description="Memory for the model",
            is_wide=True,
        ),
        Column(
            name="DeviceClass",
            type="string",
            path=".spec.deviceClaim.deviceClassName",
            description="DeviceClass of the devices that each worker claims",
            is_wide=True,
        ),
        Column(
            name="Currency",
            type="string",
            path=".spec.price.currency",
            description="What the prices are in",
            is_wide=True,
        ),
        _AGE,
    ),
)
WARM_POOL = ApiObject(
    model=warm_pool.WarmPool,
    kind=warm_pool.KIND,
    plural=warm_pool.PLURAL,
    short_name="wp",
    scope="Namespaced",
    spec=warm_pool.WarmPoolSpec,
    status=pool_status.WarmPoolStatusSchema,
    name_is="it is a label of the worker pods",
    columns=(
        Column(
            name="Ready",
            type="string",
            path=f"{_READY}.status",
            description="Whether as many stand by as it should keep",
        ),
        Column(
            name="Reason",
            type="string",
            path=f"{_READY}.reason",
            description="Why it is ready or not",
        ),
        Column(
            name="Size",
            type="integer",
            path=".spec.size",
            description="Standbys to keep",
        ),
        Column(
            name="Standby",
            type="integer",
            path=".status.standby",
            description="Workers that can be claimed now",
        ),
        Column(
            name="Claimed",
            type="integer",
            path=".status.claimed",
            description="Workers of deployments that came from it",
        ),
        Column(
            name="Hits",
            type="integer",
            path=".status.hits",
            description="Standbys that were claimed",
        ),
        Column(
            name="Misses",
            type="integer",
            path=".status.misses",
            description="Workers that were started since none stood by",
        ),
        Column(
            name="$/h",
            type="string",
            path=".status.hourlyCost",
            description="What its standbys cost an hour",
        ),
        _AGE,
        Column(
            name="Class",
            type="string",
            path=".spec.accelerator",
            description="AcceleratorClass of its standbys",
            is_wide=True,
        ),
        Column(
            name="Saved",
            type="integer",
            path=".status.secondsSaved",
            description="Seconds that claims saved",
            is_wide=True,
        ),
        Column(
            name="Message",
            type="string",
            path=f"{_READY}.message",
            description="Why it is ready or not, as a sentence",
            is_wide=True,
        ),
    ),
)
OBJECTS = (MODEL_DEPLOYMENT, ACCELERATOR_CLASS, WARM_POOL)


def custom_resource_definition(of: ApiObject) -> dict[str, Any]:
    """The whole CRD as a plain object."""
    subresources: dict[str, Any] = {}
    if of.status is not None:
        subresources["status"] = {}
    if of.scale is not None:
        subresources["scale"] = of.scale
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": object_schema(of)},
        "additionalPrinterColumns": [
            {
                "name": column.name,
                "type": column.type,
                "jsonPath": column.path,
                "description": column.description,
                **({"priority": 1} if column.is_wide else {}),
            }
            for column in of.columns
        ],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{of.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": of.scope,
            "names": {
                "kind": of.kind,
                "listKind": f"{of.kind}List",
                "plural": of.plural,
                "singular": of.kind.lower(),
                "shortNames": [of.short_name],
                # Not `all`: worker pods are listed there already.
                "categories": ["modelfleet"],
            },
            "versions": [{**version, "subresources": subresources} if subresources else version],
        },
    }


def object_schema(of: ApiObject) -> dict[str, Any]:
    """The structural schema of one kind of object."""
    status: dict[str, Any] = {}
    if of.status is not None:
        # What no operator has reconciled yet is InProgress to kstatus; without a status it would be
        # Current, and a wait for a new object would end at once.
        status["status"] = {**structural_schema(of.status), "default": {"observedGeneration": -1}}
    return {
        "type": "object",
        "description": sentence(of.model.__doc__),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "modelfleet.dev/v1alpha1. Required."},
            "kind": {"type": "string", "description": f"{of.kind}. Required."},
            "metadata": {"type": "object"},
            "spec": structural_schema(of.spec),
            **status,
        },
        "x-kubernetes-validations": [of.name_rule.model_dump()],
    }


def crd_text(of: ApiObject) -> str:
    """What crds/ holds."""
    head = f"# Generated by `python -m modelfleet_operator.api.crd` from the typed {of.kind}.\n"
    # Through JSON, so that equal objects are written out instead of as YAML aliases.
    plain = json.loads(json.dumps(custom_resource_definition(of)))
    return head + yaml.safe_dump(plain, sort_keys=False, width=100)


def reference() -> str:
    """docs/reference.md: every field, from the same schemas."""
    lines = [
        "# Reference",
        "",
        "Generated from the CRDs by `make generate`; `kubectl explain mdep.spec` says the same. "
        "A manifest is read alike by `kubectl apply` and by `modelfleet up`.",
        "",
        "Durations are strings such as `90s` or `1h30m`, memory is a quantity such as `2Gi`, money "
        'one such as `"2.50"`.',
    ]
    for of in OBJECTS:
        schema = object_schema(of)
        properties = schema["properties"]
        lines += ["", f"## {of.kind} (`{of.short_name}`, {of.scope.lower()})"]
        for part in ("spec", "status"):
            if part in properties:
                lines += ["", f"### {part}", "", "| field | type | description |", "|---|---|---|"]
                lines += _rows(properties[part], part)
        lines += ["", "### Rules between fields", ""]
        lines += [f"- {rule}" for rule in [of.name_rule.message, *_messages(properties["spec"])]]
    return "\n".join(lines) + "\n"


def _rows(schema: dict[str, Any], path: str) -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        description = field["description"].replace("|", "\\|")
        yield f"| `{here}` | {_type(field)} | {description} |"
        inner = field.get("items", field)
        if "properties" in inner:
            yield from _rows(inner, here + "[]" if "items" in field else here)


def _type(field: dict[str, Any]) -> str:
    if "enum" in field:
        return " or ".join(map(str, field["enum"]))
    if INT_OR_STRING in field:
        return "integer or percent"
    if field["type"] == "array":
        return f"list of {_type(field['items'])}"
    if "additionalProperties" in field:
        return f"map of {_type(field['additionalProperties'])}"
    if "minimum" in field and "maximum" in field:
        return f"{field['type']}, {field['minimum']} to {field['maximum']}"
    return str(field["type"])


def _messages(schema: dict[str, Any]) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield rule["message"]
    for field in schema.get("properties", {}).values():
        yield from _messages(field.get("items", field))


def main() -> None:
    """Writes every file."""
    files = [(of.file, crd_text(of)) for of in OBJECTS]
    for path, text in [*files, (REFERENCE_FILE, reference())]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

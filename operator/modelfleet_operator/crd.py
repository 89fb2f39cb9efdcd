"""`python -m modelfleet_operator.crd` generates crds/ and docs/reference.md from the models.

The schema is structural, bounded (the API server estimates the cost of CEL rules by that) and
described throughout: `kubectl explain md.spec` is the documentation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from .spec import GROUP, KIND, PLURAL, VERSION, ApiModel, ModelDeployment, Rule, Spec
from .status_schema import Status

ROOT = Path(__file__).parents[2]
CRD_FILE = ROOT / "crds" / f"{GROUP}_{PLURAL}.yaml"
REFERENCE_FILE = ROOT / "docs" / "reference.md"

NAME_RULE = Rule(
    rule="self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",
    message="metadata.name must have at most 63 characters and no '.': it is a label of the "
    "worker pods and a name of the model",
)
# Types that pydantic's JSON schema shares with a CRD's; everything else is left out.
KEPT = frozenset(
    {"type", "description", "default", "enum", "minimum", "maximum", "pattern", "maxLength"}
    | {"maxItems", "format", "items", "properties", "required"}
)


def custom_resource_definition() -> dict[str, Any]:
    """The whole CRD as a plain object."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["md"],
                "categories": ["modelfleet"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": object_schema()},
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.scaling.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": list(_columns()),
                }
            ],
        },
    }


def object_schema() -> dict[str, Any]:
    """The structural schema of a ModelDeployment."""
    return {
        "type": "object",
        "description": _sentence(ModelDeployment.__doc__),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "modelfleet.dev/v1alpha1. Required."},
            "kind": {"type": "string", "description": "ModelDeployment. Required."},
            "metadata": {"type": "object"},
            "spec": structural_schema(Spec),
            "status": structural_schema(Status),
        },
        "x-kubernetes-validations": [NAME_RULE.model_dump()],
    }


def structural_schema(model: type[BaseModel]) -> dict[str, Any]:
    """A model's schema with references inlined, nulls removed and its CEL rules attached."""
    # Serialization mode, because that writes defaults as a manifest does (5m, not 300.0).
    schema = model.model_json_schema(mode="serialization")
    rules = {m.__name__: m.rules for m in _models(ApiModel) if m.rules}
    return _structural(schema, schema.get("$defs", {}), rules)


def _structural(
    node: dict[str, Any], definitions: dict[str, Any], rules: dict[str, tuple[Rule, ...]]
) -> dict[str, Any]:
    if reference := node.get("$ref"):
        name = reference.removeprefix("#/$defs/")
        beside = {key: value for key, value in node.items() if key != "$ref"}
        return _structural({**definitions[name], **beside}, definitions, rules)
    if options := node.get("anyOf"):  # X | None: a CRD says it by leaving the field out
        (option,) = [o for o in options if o.get("type") != "null"]
        beside = {key: value for key, value in node.items() if key not in {"anyOf", "default"}}
        return _structural({**option, **beside}, definitions, rules)
    result: dict[str, Any] = {
        key: value for key, value in node.items() if key in KEPT or key.startswith("x-kubernetes-")
    }
    if "description" in result:
        result["description"] = _sentence(result["description"])
    if "items" in result:
        result["items"] = _structural(result["items"], definitions, rules)
    if "properties" in result:
        result["properties"] = {
            name: _structural(field, definitions, rules)
            for name, field in result["properties"].items()
        }
    if isinstance(result.get("default"), dict):
        result["default"] = {}  # the API server fills in the fields' own defaults
    if node.get("title") in rules:
        result["x-kubernetes-validations"] = [rule.model_dump() for rule in rules[node["title"]]]
    return result


def _models(root: type[ApiModel]) -> Iterator[type[ApiModel]]:
    for model in root.__subclasses__():
        yield model
        yield from _models(model)


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())


def _columns() -> Iterator[dict[str, Any]]:
    ready = '.status.conditions[?(@.type=="Ready")]'
    for name, kind, path, description in [
        ("Ready", "string", f"{ready}.status", "Whether every gateway can route to it"),
        ("Reason", "string", f"{ready}.reason", "Why it is ready or not"),
        ("Replicas", "integer", ".status.replicas", "Workers that exist"),
        ("Queue", "integer", ".status.queue.waiting", "Requests that wait for a worker"),
        ("Model", "string", ".spec.model.source", "Where the model comes from"),
        ("Age", "date", ".metadata.creationTimestamp", "Time since it was created"),
    ]:
        yield {"name": name, "type": kind, "jsonPath": path, "description": description}


def reference() -> str:
    """docs/reference.md: every field, from the same schema."""
    properties = object_schema()["properties"]
    lines = [
        "# Reference: ModelDeployment",
        "",
        "Generated from the CRD (`python -m modelfleet_operator.crd`); `kubectl explain md.spec` "
        "says the same. A manifest is read alike by `kubectl apply` and by `modelfleet up`.",
        "",
        "Durations are strings such as `90s` or `1h30m`, memory is a quantity such as `2Gi`.",
    ]
    for part in ("spec", "status"):
        lines += ["", f"## {part}", "", "| field | type | description |", "|---|---|---|"]
        lines += _rows(properties[part], part)
    lines += ["", "## Rules between fields", ""]
    lines += [f"- {rule}" for rule in [NAME_RULE.message, *_messages(properties["spec"])]]
    return "\n".join(lines) + "\n"


def _rows(schema: dict[str, Any], path: str) -> Iterator[str]:
    for name, field in schema["properties"].items():
        here = f"{path}.{name}"
        description = field["description"].replace("|", "\\|")
        yield f"| `{here}` | {_type(field)} | {description} |"
        inner = field.get("items", field)
        if "properties" in inner:
            yield from _rows(inner, here + "[]" if "items" in field else here)


def _type(field: dict[str, Any]) -> str:
    if "enum" in field:
        return " or ".join(field["enum"])
    if field["type"] == "array":
        return f"list of {_type(field['items'])}"
    if "minimum" in field and "maximum" in field:
        return f"{field['type']}, {field['minimum']} to {field['maximum']}"
    return str(field["type"])


def _messages(schema: dict[str, Any]) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield rule["message"]
    for field in schema.get("properties", {}).values():
        yield from _messages(field)


def crd_text() -> str:
    """What crds/ holds."""
    head = "# Generated by `python -m modelfleet_operator.crd` from spec.py and status_schema.py.\n"
    # Through JSON, so that equal objects are written out instead of as YAML aliases.
    plain = json.loads(json.dumps(custom_resource_definition()))
    return head + yaml.safe_dump(plain, sort_keys=False, width=100)


def main() -> None:
    """Writes both files."""
    for path, text in [(CRD_FILE, crd_text()), (REFERENCE_FILE, reference())]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

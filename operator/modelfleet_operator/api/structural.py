"""Structural schemas, as CRDs want them, from pydantic models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from .api_model import ApiModel, Rule

# Types that pydantic's JSON schema shares with a CRD's; everything else is left out.
KEPT = frozenset(
    {"type", "description", "default", "enum", "minimum", "maximum", "pattern", "maxLength"}
    | {"maxItems", "maxProperties", "format", "items", "properties", "required"}
)


INT_OR_STRING = "x-kubernetes-int-or-string"


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
    options = node.get("anyOf")
    if options and INT_OR_STRING not in node:  # X | None: a CRD has no nulls, the field is left out
        (option,) = [o for o in options if o.get("type") != "null"]
        beside = {key: value for key, value in node.items() if key not in {"anyOf", "default"}}
        return _structural({**option, **beside}, definitions, rules)
    result: dict[str, Any] = {
        key: value for key, value in node.items() if key in KEPT or key.startswith("x-kubernetes-")
    }
    if INT_OR_STRING in node:
        result["anyOf"] = node["anyOf"]
    if "description" in result:
        result["description"] = sentence(result["description"])
    if "items" in result:
        result["items"] = _structural(result["items"], definitions, rules)
    if maps := node.get("patternProperties"):  # a CRD's maps take any key: a rule checks them
        (values,) = maps.values()
        result["additionalProperties"] = _structural(values, definitions, rules)
    elif isinstance(values := node.get("additionalProperties"), dict):
        result["additionalProperties"] = _structural(values, definitions, rules)
    if "properties" in result:
        result["properties"] = {
            name: _structural(field, definitions, rules)
            for name, field in result["properties"].items()
        }
    if isinstance(result.get("default"), dict | list):
        # What is left out stays out: an operator that is older than the CRD, as during an upgrade,
        # would not know a section that the API server filled in.
        del result["default"]
    # A field's title is its name: one that is spelled like a model has none of its rules.
    if "properties" in result and node.get("title") in rules:
        result["x-kubernetes-validations"] = [rule.model_dump() for rule in rules[node["title"]]]
    return result


def _models(root: type[ApiModel]) -> Iterator[type[ApiModel]]:
    for model in root.__subclasses__():
        yield model
        yield from _models(model)


def sentence(text: str | None) -> str:
    """On one line."""
    return " ".join((text or "").split())

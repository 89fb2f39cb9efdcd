"""Arguments that a model writes as text, cast by the schema of the tool's parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .json_values import to_json

_DEEPEST = 8  # choices within choices


def types_of(schema: Any, depth: int = 0) -> frozenset[str]:
    """What values may be; none: the schema does not say it."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return frozenset()
    declared = schema.get("type")
    found = {declared} if isinstance(declared, str) else set()
    if isinstance(declared, list):
        found |= {kind for kind in declared if isinstance(kind, str)}
    for key in ("anyOf", "oneOf"):
        choices = schema.get(key)
        for choice in choices if isinstance(choices, list) else []:
            found |= types_of(choice, depth + 1)
    if found and schema.get("nullable"):
        found.add("null")
    values = schema.get("enum")
    if not found and isinstance(values, list) and all(isinstance(v, str) for v in values):
        found.add("string")
    return frozenset(found)


def parameter(schema: Mapping[str, Any], key: str) -> Any:
    """The schema of a parameter; None: it has none."""
    properties = schema.get("properties")
    return properties.get(key) if isinstance(properties, Mapping) else None


def cast(text: str, types: frozenset[str]) -> Any:
    """The value that the text stands for; the text itself where it stands for none of the types."""
    plain = text.strip()
    if "null" in types and plain in ("null", "None"):
        return None
    if "string" in types or not types:
        return text
    if "boolean" in types and plain.lower() in ("true", "false"):
        return plain.lower() == "true"
    try:
        value = json.loads(plain)
        to_json(value)
    except (ValueError, RecursionError):
        return text
    kinds: dict[str, tuple[type, ...]] = {
        "object": (dict,),
        "array": (list,),
        "integer": (int,),
        "number": (int, float),
    }
    if (
        isinstance(value, float)
        and value.is_integer()
        and types & {"integer", "number"} == {"integer"}
    ):
        return int(value)
    is_one = any(isinstance(value, kinds[kind]) for kind in types if kind in kinds)
    return value if is_one and not isinstance(value, bool) else text

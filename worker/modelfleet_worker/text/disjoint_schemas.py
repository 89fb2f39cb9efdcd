"""Whether no value is valid by two of several JSON schemas, so that `oneOf` of them is `anyOf`."""

from __future__ import annotations

import itertools
import json
from typing import Any

from .schema_references import pointed_at

_MAX_BRANCHES = 100
_MAX_REFERENCES = 20  # from one to the next


def are_disjoint(branches: list[Any], root: dict[str, Any]) -> bool:
    """By their types, or by a property that all objects of them must have with other values.

    Only what is sure: False may be wrong. `root` is what references begin at.
    """
    if len(branches) > _MAX_BRANCHES:
        return False
    resolved = [_resolved(branch, root) for branch in branches]
    return all(_differ(a, b, root) for a, b in itertools.combinations(resolved, 2))


def _differ(a: Any, b: Any, root: dict[str, Any]) -> bool:
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return a is False or b is False
    types, others = _types(a), _types(b)
    if types and others and not (types & others):
        return True
    values, other_values = _values(a), _values(b)
    if values is not None and other_values is not None:
        return not values & other_values
    if types != {"object"} or others != {"object"}:
        return False
    return any(_property_differs(a, b, name, root) for name in _required(a) & _required(b))


def _property_differs(
    a: dict[str, Any], b: dict[str, Any], name: str, root: dict[str, Any]
) -> bool:
    mine, other = (_resolved(_properties(schema).get(name), root) for schema in (a, b))
    if not (isinstance(mine, dict) and isinstance(other, dict)):
        return False
    values, other_values = _values(mine), _values(other)
    return values is not None and other_values is not None and not values & other_values


def _types(schema: dict[str, Any]) -> set[str]:
    """Empty: any. Integers are numbers."""
    types = schema.get("type")
    several = [types] if isinstance(types, str) else types if isinstance(types, list) else []
    return {"number" if one == "integer" else str(one) for one in several}


def _values(schema: dict[str, Any]) -> set[str] | None:
    """As JSON; None: not a few that are named."""
    if "const" in schema:
        return {_canonical(schema["const"])}
    enum = schema.get("enum")
    return {_canonical(one) for one in enum} if isinstance(enum, list) else None


def _canonical(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)


def _required(schema: dict[str, Any]) -> set[str]:
    required = schema.get("required")
    return {n for n in required if isinstance(n, str)} if isinstance(required, list) else set()


def _properties(schema: dict[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties")
    return properties if isinstance(properties, dict) else {}


def _resolved(schema: Any, root: dict[str, Any]) -> Any:
    """What a reference points to; None: not to a schema within this one."""
    for _ in range(_MAX_REFERENCES):
        if not (isinstance(schema, dict) and isinstance(schema.get("$ref"), str)):
            return schema
        schema = pointed_at(schema["$ref"], root)
    return None

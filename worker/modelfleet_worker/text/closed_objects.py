"""Which objects of a JSON schema are closed: held to the properties that the schema lists.

A schema that says nothing about other properties allows any, and models then go on inventing some.
What the closed object allows, the open one does too. What only the open one allows, the closed one
does once the properties that are not listed are taken away, unless more is said about the same
value, which may ask for one of them. So objects of which more is said stay open.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from .disjoint_schemas import are_disjoint
from .schema_references import MISSING, pointed_at

# With one of these a schema says itself what else there may be, or applies another schema.
_SAID: Final = frozenset(
    (
        *("additionalProperties", "patternProperties", "unevaluatedProperties", "minProperties"),
        *("enum", "const", "allOf", "anyOf", "oneOf", "$ref"),
    )
)
# What a schema says itself about what is in a value.
_CONTENTS: Final = frozenset(
    (
        *("properties", "patternProperties", "additionalProperties", "required"),
        *("minProperties", "maxProperties", "items", "prefixItems", "additionalItems"),
    )
)
_VALUES: Final = frozenset(("enum", "const"))
_MAPS: Final = ("properties", "patternProperties")
_WITHIN: Final = ("additionalProperties", "additionalItems", "items", "prefixItems")

Applied = tuple[Any, bool]  # a schema, and whether another one is applied to the same values


def closable_objects(root: dict[str, Any]) -> frozenset[int]:
    """The `id`s of those schemas in `root` whose objects may be closed.

    None if a reference leads elsewhere: then it is not known what is said about a value.
    """
    found: set[int] = set()
    reached: set[tuple[int, bool]] = set()
    waiting: list[Applied] = [(root, False)]
    while waiting:
        schema, is_shared = waiting.pop()
        if schema is MISSING:
            return frozenset()
        if not isinstance(schema, dict) or (id(schema), is_shared) in reached:
            continue
        reached.add((id(schema), is_shared))
        if _may_close(schema):
            found.add(id(schema))
        waiting += _applied(schema, root, is_shared=is_shared)
    return frozenset(one for one in found if (one, True) not in reached)


def _may_close(schema: dict[str, Any]) -> bool:
    """As far as the schema itself says."""
    properties, required = schema.get("properties"), schema.get("required", [])
    if not (isinstance(properties, dict) and properties and isinstance(required, list)):
        return False
    return not schema.keys() & _SAID and all(
        isinstance(name, str) and name in properties for name in required
    )


def _applied(schema: dict[str, Any], root: Any, *, is_shared: bool) -> Iterator[Applied]:
    """The schemas that this one applies, to its value and to what is in it."""
    choices = {name: schema[name] for name in ("anyOf", "oneOf") if name in schema}
    parts = _schemas(schema.get("allOf"))
    said = len(parts) + len(choices) + ("$ref" in schema)
    said += bool(schema.keys() & _CONTENTS) + bool(schema.keys() & _VALUES)
    is_shared = is_shared or said > 1
    if "$ref" in schema:
        yield pointed_at(schema["$ref"], root), is_shared
    for part in parts:
        yield part, is_shared
    for name, several in choices.items():
        branches = _schemas(several)
        # Where two branches may both be valid, one must not be: that one is as it was written.
        may_meet = name == "oneOf" and not are_disjoint(branches, root)
        for branch in branches:
            yield branch, is_shared or may_meet
    # A pattern may hold for a property that is listed, or for which another pattern holds.
    is_shared = is_shared or "patternProperties" in schema
    for keyword in _MAPS:
        for one in _schemas(schema.get(keyword)):
            yield one, is_shared
    for keyword in _WITHIN:
        for one in _schemas(schema.get(keyword), is_one=True):
            yield one, is_shared


def _schemas(value: Any, *, is_one: bool = False) -> list[Any]:
    """Of a keyword's value; what is no schema is refused elsewhere."""
    if isinstance(value, dict):
        return [value] if is_one else list(value.values())
    return value if isinstance(value, list) else []

"""Objects are held to the properties that a schema lists, where nothing that is valid is lost."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from modelfleet_worker.text.json_schema import check_schema
from structured import dumped

NAMES = ("a", "b", "c")
AB = {"a": 1, "b": 2}
OBJECT_A, OBJECT_B, OBJECT_C = (
    {"type": "object", "properties": {name: {}}, "required": [name]} for name in NAMES
)


def enforced(schema: dict[str, Any]) -> Draft202012Validator:
    """What llguidance is given; it is a JSON schema, too."""
    return Draft202012Validator(json.loads(check_schema(dumped(schema))))


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param(OBJECT_A, id="an object"),
        pytest.param({"allOf": [OBJECT_A]}, id="allOf of one"),
        pytest.param({"anyOf": [OBJECT_A, OBJECT_C], "title": "T"}, id="a choice"),
        pytest.param({"anyOf": [OBJECT_A, {"type": "null"}], "default": None}, id="an optional"),
        pytest.param({"$ref": "#/$defs/x", "$defs": {"x": OBJECT_A}}, id="a reference"),
        pytest.param(
            {"allOf": [{"$ref": "#/$defs/x~1y"}], "title": "T", "$defs": {"x/y": OBJECT_A}},
            id="pydantic 1's reference",
        ),
        pytest.param(
            {"$ref": "#/$defs/x", "description": "d", "type": "object", "$defs": {"x": OBJECT_A}},
            id="a reference with annotations",
        ),
    ],
)
def test_other_properties_do_not_come_where_only_one_schema_is_applied(schema):
    assert Draft202012Validator(schema).is_valid(AB)
    assert enforced(schema).is_valid({"a": 1})
    assert not enforced(schema).is_valid(AB)


def test_so_it_is_at_every_depth():
    inner = {"type": "object", "properties": {"l": {"type": "array", "items": OBJECT_A}}}
    schema = {"type": "object", "properties": {"o": {"additionalProperties": inner}}}
    assert enforced(schema).is_valid({"o": {"x": {"l": [{"a": 1}]}}})
    assert not enforced(schema).is_valid({"o": {"x": {"l": [AB]}}})
    assert not enforced(schema).is_valid({"o": {"x": {"l": [], "m": 1}}})


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        pytest.param({**OBJECT_A, "additionalProperties": True}, AB, id="true"),
        pytest.param({**OBJECT_A, "additionalProperties": {}}, AB, id="a schema of others"),
        pytest.param({**OBJECT_A, "unevaluatedProperties": True}, AB, id="unevaluatedProperties"),
        pytest.param({**OBJECT_A, "patternProperties": {"^b": {}}}, AB, id="patternProperties"),
        pytest.param({**OBJECT_A, "required": ["a", "b"]}, AB, id="requires what it does not list"),
        pytest.param({"type": "object", "required": ["b"]}, AB, id="lists none"),
        pytest.param({**OBJECT_A, "enum": [AB]}, AB, id="enum"),
        pytest.param(
            {"enum": [{"o": AB}], "properties": {"o": OBJECT_A}}, {"o": AB}, id="enum around it"
        ),
        pytest.param({"allOf": [OBJECT_A, OBJECT_B]}, AB, id="allOf"),
        pytest.param(
            {"allOf": [{"properties": {"o": one}} for one in (OBJECT_A, OBJECT_B)]},
            {"o": AB},
            id="allOf around it",
        ),
        pytest.param(
            {"anyOf": [OBJECT_A, OBJECT_C], "required": ["a", "b"]}, AB, id="required around anyOf"
        ),
        pytest.param({"items": OBJECT_A, "anyOf": [{"items": OBJECT_B}]}, [AB], id="items"),
        pytest.param(
            {"properties": {"bo": OBJECT_A}, "patternProperties": {"^b": OBJECT_B}},
            {"bo": AB},
            id="a property that a pattern holds for",
        ),
        pytest.param(
            {"$ref": "#/$defs/a", **OBJECT_B, "$defs": {"a": OBJECT_A}}, AB, id="beside $ref"
        ),
        pytest.param(
            {
                "properties": {
                    "alone": {"$ref": "#/$defs/a"},
                    "both": {"allOf": [{"$ref": "#/$defs/a"}, OBJECT_B]},
                },
                "$defs": {"a": OBJECT_A},
            },
            {"both": AB},
            id="a reference from elsewhere",
        ),
    ],
)
def test_objects_stay_open_where_other_properties_are_named_or_asked_for(schema, value):
    assert Draft202012Validator(schema).is_valid(value)
    assert enforced(schema).is_valid(value)


def test_branches_that_may_both_be_valid_are_told_apart_as_they_were_written():
    """If they were closed, AB would be valid by none, and each other value by the same one."""
    schema = {"oneOf": [OBJECT_A, {**OBJECT_B, "required": ["a"]}]}
    for value in ({"a": 1}, AB, {"b": 1}):
        assert enforced(schema).is_valid(value) == Draft202012Validator(schema).is_valid(value)


LEAVES = st.sampled_from([{}, {"type": "integer"}, {"const": 1}, {"type": "object"}, False])


def objects(child: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Also with keywords that ask for properties that are not listed."""
    rarely = st.fixed_dictionaries(
        {},
        optional={
            "additionalProperties": child,
            "patternProperties": st.fixed_dictionaries({"^b": child}),
            "enum": st.sampled_from([[AB], [{"a": AB}, {"a": 1}]]),
            "minProperties": st.just(1),
            "maxProperties": st.just(1),
        },
    )
    return st.builds(
        lambda own, more: own | more,
        st.fixed_dictionaries(
            {"properties": st.dictionaries(st.sampled_from(NAMES), child, min_size=1)},
            optional={"required": st.lists(st.sampled_from(NAMES), unique=True, max_size=2)},
        ),
        st.one_of(st.just({}), st.just({}), rarely),
    )


def combined(child: st.SearchStrategy[Any], base: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Several schemas for one value."""
    several = st.lists(child, min_size=1, max_size=2)
    return st.builds(
        lambda own, more: {**own, **more} if isinstance(own, dict) else more,
        st.one_of(st.just({}), base),
        st.one_of(
            *(st.fixed_dictionaries({name: several}) for name in ("allOf", "anyOf", "oneOf"))
        ),
    )


def schemas(*references: str) -> st.SearchStrategy[Any]:
    """Any, with these references in them."""
    leaves = st.one_of(LEAVES, *(st.just({"$ref": f"#/$defs/{name}"}) for name in references))
    return st.recursive(
        leaves,
        lambda child: st.one_of(
            objects(child),
            combined(child, objects(child)),
            st.fixed_dictionaries({"items": child}),
            *(st.builds(lambda own, name=name: {**own, "$ref": f"#/$defs/{name}"}, objects(child))
              for name in references),
        ),
        max_leaves=6,
    )  # fmt: skip


def with_definitions(schema: Any, x: Any, y: Any) -> dict[str, Any]:
    return {"allOf": [schema], "$defs": {"x": x, "y": y}}


def values() -> list[Any]:
    inner = [1, {}, {"a": 1}, {"b": 1}, AB]
    several: list[Any] = [*inner, [1], [{"a": 1}], [AB]]
    for names in (("a",), ("b",), ("c",), ("a", "b"), ("a", "b", "c")):
        several += [
            dict(zip(names, found, strict=True))
            for found in itertools.product(inner, repeat=min(len(names), 2))
            if len(names) < 3
        ] or [dict.fromkeys(names, 1)]
    return several


def without_some(value: Any) -> Iterator[Any]:
    """The value, and what is left of it without some properties, at every depth."""
    match value:
        case dict():
            for size in range(len(value), -1, -1):
                for names in itertools.combinations(value, size):
                    for found in itertools.product(*(without_some(value[n]) for n in names)):
                        yield dict(zip(names, found, strict=True))
        case list():
            yield from map(list, itertools.product(*map(without_some, value)))
        case _:
            yield value


VALUES = values()


@given(st.builds(with_definitions, schemas("x", "y"), schemas("y"), schemas()))
def test_what_comes_is_valid_and_what_is_valid_comes_without_the_properties_nobody_asked_for(
    schema,
):
    as_written, held = Draft202012Validator(schema), enforced(schema)
    for value in VALUES:
        if held.is_valid(value):
            assert as_written.is_valid(value)
        elif as_written.is_valid(value):
            assert any(held.is_valid(smaller) for smaller in without_some(value)), value

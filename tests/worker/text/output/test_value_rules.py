"""Calls that are not written as JSON: what their grammar allows is read as valid values."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from call_writer import Writer, calls_of, tool, vocabulary_of
from modelfleet_worker.errors import InvalidRequestError
from modelfleet_worker.text.output.grammar import Demand, write_grammar
from modelfleet_worker.text.output.parts import Kind

FAMILIES = ["Gemma", "Pythonic"]
PART = {
    "type": "object",
    "properties": {"x": {"type": "number", "exclusiveMinimum": 0, "maximum": 9}, "y": {}},
    "required": ["x"],
}
VALUES: dict[str, dict[str, Any]] = {
    "text": {"type": "string"},
    "text of a length": {"type": "string", "minLength": 1, "maxLength": 3},
    "numbers": {"type": "number"},
    "a count": {"type": "integer", "minimum": -3, "multipleOf": 3, "maximum": 30},
    "truth": {"type": ["boolean", "null"]},
    "names": {
        "enum": ["a \"b\" 'c'", "", "日本\n", "true", 1, -2.5, True, None, [1, "x"], {"k": {}}]
    },
    "names of a type": {"type": "string", "enum": ["a", 1, "b"]},
    "one": {"const": {"k k": [False]}},
    "a list": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3},
    "a short list": {"type": "array", "items": PART, "maxItems": 1},
    "an empty list": {"type": "array", "items": False},
    "an object": PART,
    "a map": {"type": "object", "additionalProperties": {"type": "boolean"}},
    "nothing": {"type": "object", "additionalProperties": False},
    "a choice": {"anyOf": [{"$ref": "#/$defs/part"}, {"type": "null"}]},
    "a reference": {"allOf": [{"$ref": "#/$defs/part"}], "description": "d"},
    "requires what it does not list": {"properties": {"a": {}}, "required": ["b", "a"]},
    "anything": {},
}


def of(value: dict[str, Any], *, needed: bool = True) -> dict[str, Any]:
    """The schema of arguments with such a value, and another one."""
    properties = {"first": {"type": "boolean"}, "value": value}
    names = ["value"] if needed else []
    defs = {"part": PART}
    return {"type": "object", "properties": properties, "required": names, "$defs": defs}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", VALUES)
def test_values_are_valid_by_their_schema(family, name):
    schema = of(VALUES[name])
    demand = Demand(tools=[tool("f", schema)], required=True, single=True)
    writer = Writer(family, demand)
    seen: set[str] = set()
    for seed in range(16):
        ids, has_ended = writer.write(seed, most=150)
        if has_ended:
            parts = writer.parts(ids, {"f": schema})
            assert all(part.kind is Kind.CALL for part in parts), writer.vocabulary.written(ids)
            ((called, arguments),) = calls_of(parts)
            assert called == "f"
            Draft202012Validator(schema).validate(arguments)
            seen.add(json.dumps(arguments))
    assert len(seen) > 1  # with and without `first` at the least


@pytest.mark.parametrize("family", FAMILIES)
def test_arguments_that_no_schema_holds_are_arguments(family):
    demand = Demand(tools=[tool("f", {}, strict=False)], required=True, single=False)
    writer = Writer(family, demand)
    found = 0
    for seed in range(40):
        ids, has_ended = writer.write(seed, most=150)
        if has_ended:
            parts = writer.parts(ids, {"f": {}})
            assert all(part.kind is Kind.CALL for part in parts), writer.vocabulary.written(ids)
            found += sum(len(arguments) for _, arguments in calls_of(parts))
    assert found > 5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("value", "keyword"),
    [
        ({"type": "string", "pattern": "^a"}, "pattern"),
        ({"type": "string", "format": "date"}, "format"),
        ({"type": "array", "prefixItems": [{}]}, "prefixItems"),
        ({"type": "object", "patternProperties": {"^a": {}}}, "patternProperties"),
        ({"type": "object", "maxProperties": 1}, "maxProperties"),
        ({"allOf": [{"type": "object"}, {"required": ["a"]}]}, "allOf"),
        ({"type": "object", "anyOf": [{"required": ["a"]}]}, "anyOf"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"enum": ["a"], "minLength": 1}, "enum"),
        ({"$ref": "#/$defs/part", "minProperties": 1}, "$ref"),
        ({"$ref": "#/$defs/around", "$defs": {}}, "$ref"),
        ({"$ref": "#"}, "$ref' to a schema around it"),
    ],
)
def test_what_they_cannot_be_held_to_is_named(family, value, keyword):
    style, vocabulary = vocabulary_of(family, special=True)
    demand = Demand(tools=[tool("f", of(value))], required=True, single=False)
    with pytest.raises(InvalidRequestError) as error:
        write_grammar(style, demand, vocabulary.special_id)
    assert f"the tool 'f' has the keyword '{keyword}" in str(error.value)


@pytest.mark.parametrize(
    ("family", "name", "schema", "why"),
    [
        ("Pythonic", "f:g", {}, "has a name that no call"),
        ("Pythonic", "f", {"properties": {"from": {}}}, "'from' of a tool is no name"),
        ("Pythonic", "f", {"properties": {"ﬁ": {}}}, "is no name"),
        ("Pythonic", "f", {"anyOf": [{"required": ["a"]}]}, "the keyword 'anyOf'"),
        ("Gemma", "f", {"properties": {' "': {}}}, "that this model cannot write"),
        ("Gemma", "f", {"properties": {"a": {"enum": ['<|"|>']}}}, "this model's quote"),
    ],
)
def test_names_that_cannot_be_written_are_refused(family, name, schema, why):
    style, vocabulary = vocabulary_of(family, special=True)
    made = tool(name, {"type": "object", **schema})
    with pytest.raises(InvalidRequestError, match=why):
        write_grammar(
            style, Demand(tools=[made], required=True, single=False), vocabulary.special_id
        )


def test_other_keys_stand_in_quotes():
    schema = {
        "type": "object",
        "properties": {"a:b": {"const": 1}, "{c}": {"const": 2}},
        "required": ["a:b", "{c}"],
        "additionalProperties": False,
    }
    writer = Writer("Gemma", Demand(tools=[tool("f", schema)], required=True, single=True))
    ids, has_ended = writer.write(1)
    assert has_ended
    assert calls_of(writer.parts(ids, {"f": schema})) == [("f", {"a:b": 1, "{c}": 2})]

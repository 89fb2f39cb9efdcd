"""What is taken of JSON schemas is held to; the rest is refused by the keyword's name."""

from __future__ import annotations

import json
import random

import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from modelfleet_worker.errors import InvalidRequestError
from modelfleet_worker.text.constraint import Grammars
from modelfleet_worker.text.grammar import Grammar
from modelfleet_worker.text.json_schema import MAX_BYTES, check_schema
from structured import SmallVocabulary, dumped, random_object, random_schema

VOCABULARY = SmallVocabulary()
GRAMMARS = Grammars(VOCABULARY, vocab_size=VOCABULARY.vocab_size, eos_ids=VOCABULARY.eos_ids)
A = {"type": "string"}
# One value of each kind, and near misses of what the schemas below ask for.
VALUES = [
    *(None, True, False, 0, 1, 2, 3, 5, 10, -1, 2.5, 1000.5, 9007199254740991, 9007199254740992),
    *("", "a", "ab", "abc", "abcd", "abcde", "aX", "12", "123.x", "foo-1", "日本", "a\nb", '"'),
    *("2026-11-30", "2026-13-30", "12:00:00Z", "2026-11-30T12:00:00Z", "127.0.0.1", "x@y.z"),
    *([], [1], [1, 2], [1, 1], [1, 2, 3], ["a"], ["a", 1], [None], [[]], [{"a": 1}], [1, "a", 2]),
    *({}, {"a": 1}, {"a": "x"}, {"b": 1}, {"a": 1, "b": 2}, {"a": "x", "b": "y"}, {"n_x": 1}),
    *({"n_x": "a"}, {"a": {"a": 1}}, {"a": {"b": []}}, {"kind": "cat"}, {"kind": "dog"}),
    *({"kind": "cow"}, {"a": 1, "b": 2, "c": 3}, {"a": None}, {"l": []}, {"x": {"y": {"z": 1}}}),
]
TAKEN = {
    "type": {"type": "integer"},
    "types": {"type": ["string", "null"]},
    "any": {},
    "annotations": {
        "$schema": "https://example.com/unheard-of",
        "title": "T",
        "description": "d",
        "default": 1,
        "examples": [2],
        "deprecated": True,
        "readOnly": True,
        "discriminator": {"propertyName": "kind"},
        "x-guidance": {"lenient": True, "whitespace_flexible": False},
        "unheardOf": {"not": {}},
        "type": "number",
    },
    "an unknown format": {"type": "string", "format": "binary", "contentEncoding": "base64"},
    "enum": {"enum": ["a", 1, None, [1, 2], {"a": 1}]},
    "const": {"const": {"a": "x"}},
    "bounds": {"type": "number", "minimum": 1, "exclusiveMaximum": 3},
    "zod's int": {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991},
    "int64": {"type": "integer", "maximum": 9223372036854775807},
    "exclusive": {"type": "integer", "exclusiveMinimum": 1, "maximum": 5},
    "multipleOf": {"type": "integer", "multipleOf": 5},
    "lengths": {"type": "string", "minLength": 1, "maxLength": 3},
    "pattern": {"type": "string", "pattern": "^[a-c]{2,4}$"},
    "pattern within": {"type": "string", "pattern": "[0-9]", "maxLength": 5},
    "items": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
    "prefixItems": {"type": "array", "prefixItems": [{"type": "integer"}, A], "items": False},
    "items of draft 7": {"type": "array", "items": [{"type": "integer"}], "additionalItems": A},
    "properties": {"type": "object", "properties": {"a": {"type": "integer"}}},
    "required": {"type": "object", "properties": {"a": {}}, "required": ["a"]},
    "required alone": {"type": "object", "required": ["a"]},
    "no more": {"properties": {"a": {}}, "additionalProperties": False, "type": "object"},
    "more of a kind": {"type": "object", "additionalProperties": {"type": "integer"}},
    "additional before": {
        "additionalProperties": False,
        "type": "object",
        "properties": {"a": {"type": "integer"}},
    },
    "additional beside anyOf": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"a": {"type": "integer"}},
        "anyOf": [{"properties": {"b": {"type": "integer"}}}, {"required": ["a"]}],
    },
    "patternProperties": {
        "type": "object",
        "patternProperties": {"^n_": {"type": "integer"}},
        "additionalProperties": False,
    },
    "pattern and name": {
        "type": "object",
        "properties": {"n_x": {}},
        "patternProperties": {"^n_": {"type": "integer"}},
    },
    "maxProperties": {"type": "object", "maxProperties": 1},
    "minProperties": {"type": "object", "minProperties": 1},
    "as many as required": {"type": "object", "required": ["a", "b"], "minProperties": 2},
    "anyOf": {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}]},
    "anyOf with siblings": {"anyOf": [{"minimum": 3}, {"maximum": 0}], "type": "integer"},
    "allOf": {"allOf": [{"properties": {"a": {"type": "integer"}}}, {"required": ["a"]}]},
    "oneOf by type": {"oneOf": [{"type": "integer"}, {"type": "string"}]},
    "pydantic's union": {
        "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
        "discriminator": {"propertyName": "kind"},
        "$defs": {
            "Cat": {
                "type": "object",
                "properties": {"kind": {"const": "cat"}},
                "required": ["kind"],
            },
            "Dog": {
                "type": "object",
                "properties": {"kind": {"enum": ["dog"]}},
                "required": ["kind"],
            },
        },
    },
    "$ref": {"$ref": "#/$defs/x", "$defs": {"x": {"type": "integer"}}},
    "$ref with siblings": {"$ref": "#/$defs/x", "maximum": 2, "$defs": {"x": {"type": "integer"}}},
    "definitions": {"$ref": "#/definitions/x", "definitions": {"x": {"type": "null"}}},
    "a recursive $ref": {
        "type": "object",
        "properties": {"a": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "additionalProperties": False,
    },
    "neutral values": {
        "type": "array",
        "uniqueItems": False,
        "unevaluatedItems": True,
        "propertyNames": {"type": "string"},
    },
}
# Those above that list properties and say nothing about others: others do not come.
CLOSED = ("properties", "required")
REFUSED = {
    "not": {"not": {"type": "string"}},
    "if": {"if": {"type": "string"}, "then": {"maxLength": 1}},
    "contains": {"type": "array", "contains": {"type": "integer"}},
    "uniqueItems": {"type": "array", "uniqueItems": True},
    "dependentRequired": {"dependentRequired": {"a": ["b"]}},
    "dependentSchemas": {"dependentSchemas": {"a": {"required": ["b"]}}},
    "dependencies": {"dependencies": {"a": ["b"]}},
    "propertyNames": {"propertyNames": {"pattern": "^a"}},
    "unevaluatedProperties": {"unevaluatedProperties": False},
    "unevaluatedItems": {"unevaluatedItems": False},
    "$dynamicRef": {"$dynamicRef": "#x"},
    "$recursiveRef": {"$recursiveRef": "#"},
    "minProperties": {"type": "object", "minProperties": 2},
    "multipleOf": {"type": "integer", "multipleOf": 99991},
    "$id": {"properties": {"a": {"$id": "https://example.com/a", "type": "string"}}},
    "const": {"const": 9007199254740993},
    "oneOf": {"oneOf": [{"type": "integer"}, {"type": "number"}]},
}


def accepts(schema: dict, value: object) -> bool:
    """Whether an answer of this text can come, and end there."""
    compiled = GRAMMARS.compile((Grammar.json_schema(dumped(schema)), None))
    matcher = compiled.start().matcher
    ids = VOCABULARY.encode(json.dumps(value, ensure_ascii=False), add_special_tokens=False)
    return bool(matcher.consume_tokens(ids)) and matcher.is_accepting()


@pytest.mark.parametrize("name", TAKEN)
def test_a_schema_that_is_taken_is_held_to(name):
    schema = TAKEN[name]
    draft = Draft7Validator if name == "items of draft 7" else Draft202012Validator
    validator = draft(schema)
    found = {dumped({"v": v}): (accepts(schema, v), validator.is_valid(v)) for v in VALUES}
    comes, valid = ({v for v, kinds in found.items() if kinds[i]} for i in (0, 1))
    assert comes <= valid
    assert comes
    if name in CLOSED:
        closed = draft({**schema, "additionalProperties": False})
        valid = {dumped({"v": v}) for v in VALUES if closed.is_valid(v)}
    assert comes == valid


def test_no_random_schema_lets_through_what_is_invalid():
    numbers = random.Random(7)
    taken = 0
    for _ in range(50):
        schema = random_object(numbers) if numbers.random() < 0.5 else random_schema(numbers)
        validator = Draft202012Validator(schema)
        try:
            check_schema(dumped(schema))
            invalid = [v for v in VALUES if accepts(schema, v) and not validator.is_valid(v)]
        except InvalidRequestError:
            continue
        taken += 1
        assert not invalid, schema
    assert taken > 40


@pytest.mark.parametrize("keyword", REFUSED)
@pytest.mark.parametrize("place", ["", "properties.p", "items", "anyOf.1"])
def test_what_cannot_be_enforced_is_refused_by_name(keyword, place):
    schema = REFUSED[keyword]
    match place:
        case "properties.p":
            schema = {"type": "object", "properties": {"p": schema}}
        case "items":
            schema = {"type": "array", "items": schema}
        case "anyOf.1":
            schema = {"anyOf": [{"type": "null"}, schema]}
    with pytest.raises(InvalidRequestError, match=keyword.replace("$", r"\$")) as error:
        GRAMMARS.compile((Grammar.json_schema(dumped(schema)), None))
    if keyword != "oneOf":  # llguidance says no place
        assert place in str(error.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[", "not valid JSON"),
        ("[1]", "must be a JSON object, found list"),
        ('"x"', "must be a JSON object"),
        ('{"properties": []}', "a list as 'properties'"),
        ('{"anyOf": []}', "'anyOf', not a list of some"),
        ('{"items": 1}', "a number at items, where a schema is expected"),
        ('{"minimum": "1"}', "a string as 'minimum'"),
        ('{"type": "strin"}', "Invalid type"),
        ('{"type": "string", "pattern": "(?=a)"}', "look-ahead"),
        ('{"$ref": "https://127.0.0.1:9/schema.json"}', "127.0.0.1"),
        ('{"$ref": "#/$defs/none"}', "does not exist"),
        ('{"properties": {"a": false}, "required": ["a"], "type": "object"}', "unsatisfiable"),
        ('{"not":' * 5000 + "{}" + "}" * 5000, "not|nested deeper"),
        ('{"items":' * 100 + "{}" + "}" * 100, "nested deeper than 60"),
        ('{"items":' * 5000 + "{}" + "}" * 5000, "nested deeper than 60"),
        (f'{{"title": "{"x" * MAX_BYTES}"}}', "bytes: at most"),
        ('{"const": 1e999}', "beyond float64"),
        ('{"enum": ["\\ud800"]}', "hex escape"),
    ],
)
def test_what_is_no_schema_is_refused(text, why):
    with pytest.raises(InvalidRequestError, match=why):
        GRAMMARS.compile((Grammar.json_schema(text), None))


def test_properties_come_in_the_schemas_order_and_whitespace_ends():
    schema = {"type": "object", "properties": {"z": {}, "a": {}}, "required": ["z", "a"]}
    assert accepts(schema, {"z": 1, "a": 2})
    assert not accepts(schema, {"a": 2, "z": 1})
    compiled = GRAMMARS.compile((Grammar.json_schema(dumped(schema)), None))
    spaces = VOCABULARY.encode("{" + " " * 64, add_special_tokens=False)
    assert compiled.fresh().consume_tokens(spaces)
    assert not compiled.fresh().consume_tokens([*spaces, 1 + ord(" ")])

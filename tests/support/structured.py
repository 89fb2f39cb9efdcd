"""A small vocabulary, JSON schemas of every kind, and answers that are held to them."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from modelfleet_worker.text.output.styles import PLAIN
from modelfleet_worker.text.tokenizer import Chat

END = 0
_PIECES = [
    *('{"', '":', '": ', '", "', '"}', '"],', "}}", '"a', 'name"', "null", "true", "false", "[]"),
    *("  ", "\n", "\n  ", ", ", ": ", "abc", "12", "00", "-1", "0.5", "é", "日本", "\\n", '\\"'),
    *("the ", " and", "}\n", "]}", '{"a":', '":"', '","', "2026-", "T00:", "e+", "ab12", "x y"),
]


class SmallVocabulary:
    """All bytes, some pieces of JSON, and one token that ends an answer. A tokenizer, too."""

    digest = "small"
    eos_ids = frozenset({END})

    def __init__(self, vocab_size: int = 503) -> None:
        pieces = [b"", *(bytes([i]) for i in range(256)), *(p.encode() for p in _PIECES)]
        self._pieces = pieces + [b""] * (vocab_size - len(pieces))
        self._ids = {piece: i for i, piece in enumerate(pieces)}
        self._longest = max(map(len, pieces))
        self.vocab_size = vocab_size

    def piece(self, token_id: int) -> bytes:
        return b"<end>" if token_id == END else self._pieces[token_id]

    def text_piece(self, token_id: int, *, first: bool) -> bytes:
        return self._pieces[token_id]

    def least_tokens(self, text: str) -> int:
        return 0

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The longest piece first."""
        ids, rest = [], text.encode()
        while rest:
            length = next(n for n in range(self._longest, 0, -1) if rest[:n] in self._ids)
            ids.append(self._ids[rest[:length]])
            rest = rest[length:]
        return ids

    style = PLAIN
    mark_ids: Mapping[int, str] = {}

    def special_id(self, text: str) -> int | None:
        return None

    def render_chat(self, chat: Chat) -> str:
        return "".join(message.content for message in chat.messages)

    def text(self, ids: Sequence[int]) -> str:
        return b"".join(self._pieces[i] for i in ids).decode()


_BLANK = [1 + i for i in b" \t\r\n"] + [257 + i for i, p in enumerate(_PIECES) if p.isspace()]
# Makes answers of random weights end: quotes and closing brackets are likelier, whitespace is not.
ENDING_BIAS = (
    (END, 4.0),
    *((1 + ord(c), 4.0) for c in '"}]'),
    *((token_id, -8.0) for token_id in _BLANK),
)


def random_schema(numbers: random.Random, depth: int = 3) -> dict[str, Any]:
    """One that may have any keyword that is enforced."""
    simple = [_string, _number, _enum, _flag]
    kinds = [*simple, _object, _object, _array, _union, _reference, _both] if depth else simple
    schema = numbers.choice(kinds)(numbers, depth - 1)
    if numbers.random() < 0.2:
        schema |= {"title": "T", "description": "d", "default": None, "examples": [1]}
    return schema


def random_object(numbers: random.Random) -> dict[str, Any]:
    """What clients send."""
    return {"$schema": "http://json-schema.org/draft-07/schema#", **_object(numbers, 2)}


def _string(numbers: random.Random, depth: int) -> dict[str, Any]:
    if numbers.random() < 0.3:
        formats = ["date-time", "date", "time", "uuid", "ipv4", "hostname", "email", "unheard-of"]
        return {"type": "string", "format": numbers.choice(formats), "maxLength": 40}
    if numbers.random() < 0.4:
        patterns = ["^[a-z]{2,5}$", "^(foo|bar)-[0-9]+$", "[A-Z]", r"^\d{3}\.\w+$", "^.{1,4}$"]
        return {"type": "string", "pattern": numbers.choice(patterns), "maxLength": 12}
    least = numbers.randint(0, 3)
    return {"type": "string", "minLength": least, "maxLength": least + numbers.randint(0, 8)}


def _number(numbers: random.Random, depth: int) -> dict[str, Any]:
    low = numbers.randint(-100, 100)
    schema: dict[str, Any] = {"type": numbers.choice(["integer", "number"])}
    if numbers.random() < 0.3:
        return schema | {"minimum": -(2**53) + 1, "maximum": 2**53 - 1}
    schema[numbers.choice(["minimum", "exclusiveMinimum"])] = low
    schema[numbers.choice(["maximum", "exclusiveMaximum"])] = low + numbers.randint(5, 1000)
    if schema["type"] == "integer" and numbers.random() < 0.4:
        schema["multipleOf"] = numbers.choice([2, 5])
    return schema


def _enum(numbers: random.Random, depth: int) -> dict[str, Any]:
    values = ["red", 'a "b"', "日本", 1, -2.5, True, None, [1, "x"], {"k": [False]}]
    if numbers.random() < 0.3:
        return {"const": numbers.choice(values)}
    return {"enum": numbers.sample(values, 3)}


def _flag(numbers: random.Random, depth: int) -> dict[str, Any]:
    return {"type": numbers.choice(["boolean", "null", ["boolean", "null"]])}


def _object(numbers: random.Random, depth: int) -> dict[str, Any]:
    names = numbers.sample(["a", "b", "name", "x y", "é", "$id", "not", "type"], 3)
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: random_schema(numbers, depth) for name in names},
        "required": numbers.sample(names, numbers.randint(0, 3)),
    }
    match numbers.randint(0, 4):
        case 0:
            schema["additionalProperties"] = random_schema(numbers, 0)
        case 1:
            schema = {"patternProperties": {"^n_": random_schema(numbers, 0)}, **schema}
            schema["additionalProperties"] = False
        case 2:
            schema["maxProperties"] = len(names)
            schema["required"] = names
        case _:
            schema["additionalProperties"] = False
    return schema


def _array(numbers: random.Random, depth: int) -> dict[str, Any]:
    least = numbers.randint(0, 2)
    schema = {"type": "array", "minItems": least, "maxItems": least + numbers.randint(0, 3)}
    if numbers.random() < 0.3:
        schema["prefixItems"] = [random_schema(numbers, depth) for _ in range(2)]
    return schema | {"items": random_schema(numbers, depth)}


def _union(numbers: random.Random, depth: int) -> dict[str, Any]:
    if numbers.random() < 0.4:
        cats = {"type": "object", "properties": {"kind": {"const": "cat"}, "n": {"type": "null"}}}
        dogs = {"type": "object", "properties": {"kind": {"const": "dog"}}}
        ends = {"required": ["kind"], "additionalProperties": False}
        return {"oneOf": [cats | ends, dogs | ends]}
    options = [random_schema(numbers, depth) for _ in range(2)]
    return {"anyOf": [*options, {"type": "null"}]}


def _reference(numbers: random.Random, depth: int) -> dict[str, Any]:
    return {
        "$defs": {"list": {"type": "array", "items": {"$ref": "#/$defs/list"}, "maxItems": 2}},
        "type": "object",
        "properties": {"l": {"type": "array", "items": {"type": "integer"}, "maxItems": 2}},
        "required": ["l"],
        "additionalProperties": False,
    }


def _both(numbers: random.Random, depth: int) -> dict[str, Any]:
    parts = [{"type": "object", "properties": {n: random_schema(numbers, 0)}} for n in "ab"]
    ends = {"properties": {"a": True, "b": True}, "additionalProperties": False}
    return {"allOf": [*parts, {"required": [numbers.choice("ab")]}], "type": "object"} | ends


def dumped(schema: dict[str, Any]) -> str:
    return json.dumps(schema, ensure_ascii=False)

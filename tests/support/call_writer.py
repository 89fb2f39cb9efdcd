"""Calls of tools that a grammar allows, drawn at random, and what their parser makes of them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from modelfleet_worker.text.constraint import Grammars, TokenConstraint
from modelfleet_worker.text.grammar import Grammar
from modelfleet_worker.text.json_schema import check_schema
from modelfleet_worker.text.output.formats import Tools
from modelfleet_worker.text.output.grammar import Demand, write_grammar
from modelfleet_worker.text.output.parser import new_parser
from modelfleet_worker.text.output.parts import Kind, Part, merge
from modelfleet_worker.text.output.rules import ToolSchema
from modelfleet_worker.text.output.styles import OutputStyle, find_style
from structured import END, ENDING_BIAS, SmallVocabulary

VOCAB = 503
FIRST_MARK = 450
SCHEMAS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "unit": {"type": "string", "enum": ["C", "F"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
            "where": {
                "type": "object",
                "properties": {"lat": {"type": "number"}},
                "additionalProperties": False,
            },
        },
        "required": ["days"],
        "additionalProperties": False,
    },
    "now": {"type": "object", "properties": {}, "additionalProperties": False},
}


class MarkedVocabulary(SmallVocabulary):
    """With special tokens for the marks of a style."""

    def __init__(self, marks: tuple[str, ...]) -> None:
        super().__init__(VOCAB)
        self.marks = {FIRST_MARK + i: mark for i, mark in enumerate(dict.fromkeys(marks))}

    def piece(self, token_id: int) -> bytes:
        return self.marks[token_id].encode() if token_id in self.marks else super().piece(token_id)

    def special_id(self, text: str) -> int | None:
        return next((i for i, mark in self.marks.items() if mark == text), None)

    def written(self, ids: list[int]) -> str:
        text = b"".join(b"" if i == END else self.piece(i) for i in ids)
        return text.decode(errors="replace")


def tool(name: str, schema: dict[str, Any] | None = None, *, strict: bool = True) -> ToolSchema:
    schema = SCHEMAS[name] if schema is None else schema
    held = check_schema(json.dumps(schema)) if strict else '{"type": "object"}'
    return ToolSchema(name=name, schema=schema, json=held, strict=strict)


def vocabulary_of(family: str, *, special: bool) -> tuple[OutputStyle, MarkedVocabulary]:
    style = find_style("", tool_parser=family)
    return style, MarkedVocabulary(style.marks if special else ())


class Writer:
    """Writes answers at random, in what a grammar allows."""

    def __init__(self, family: str, demand: Demand, *, special: bool = True) -> None:
        self.style, self.vocabulary = vocabulary_of(family, special=special)
        text = write_grammar(self.style, demand, self.vocabulary.special_id)
        grammars = Grammars(self.vocabulary, vocab_size=VOCAB, eos_ids=frozenset({END}))
        self._grammar = grammars.compile((Grammar.lark(text), None))
        self._weights: Mapping[int, float] = {i: math.exp(bias) for i, bias in ENDING_BIAS}

    def write(self, seed: int, most: int = 400) -> tuple[list[int], bool]:
        """The ids, and whether the answer has come to its end."""
        numbers, constraint, ids = random.Random(seed), self._grammar.start(), list[int]()
        while len(ids) < most:
            may_come = allowed(constraint)
            weights = [self._weights.get(i, 1.0) for i in may_come]
            (drawn,) = numbers.choices(may_come, weights)
            if drawn == END:
                return ids, True
            ids.append(drawn)
            if constraint.accept(drawn):
                return ids, True
        return ids, False

    def parts(self, ids: list[int], tools: Tools = SCHEMAS) -> list[Part]:
        hidden = frozenset(self.vocabulary.marks.values())
        parser = new_parser(self.style, "", tools, hidden=hidden)
        return merge(parser.feed(self.vocabulary.written(ids)) + parser.close())


def calls_of(parts: list[Part]) -> list[tuple[str, Any]]:
    """Names and arguments; the latter as JSON, which they are."""
    found: list[list[str]] = []
    for part in parts:
        if part.kind is Kind.CALL:
            if part.name:
                found.append([part.name, ""])
            found[-1][1] += part.text
    return [(name, json.loads(text)) for name, text in found]


def required(*names: str, single: bool = False) -> Demand:
    return Demand(tools=[tool(name) for name in names], required=True, single=single)


def follows(constraint: TokenConstraint, vocabulary: MarkedVocabulary, text: str) -> bool:
    """Whether all of the text is allowed, in some tokens, and the answer may end with it."""
    rest = text.encode()
    while rest:
        pieces = {i: vocabulary.piece(i) for i in allowed(constraint) if i != END}
        fit = [i for i, piece in pieces.items() if piece and rest.startswith(piece)]
        if not fit:
            return False
        longest = max(fit, key=lambda i: len(pieces[i]))
        constraint.accept(longest)
        rest = rest[len(pieces[longest]) :]
    return constraint.is_complete or END in allowed(constraint)


def allowed(constraint: TokenConstraint) -> list[int]:
    words = -(-VOCAB // 32)
    row = np.zeros(words, np.uint32)
    constraint.writer.write([constraint], row.ctypes.data, words)
    return np.unpackbits(row.view(np.uint8), bitorder="little").nonzero()[0].tolist()

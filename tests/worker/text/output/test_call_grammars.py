"""What a format's grammar allows, its parser reads: calls, with arguments by their schema."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from modelfleet_worker.errors import InvalidRequestError
from modelfleet_worker.text.constraint import Grammars, TokenConstraint
from modelfleet_worker.text.grammar import Grammar
from modelfleet_worker.text.json_schema import check_schema
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
ENFORCED = [
    *("Hermes", "QwenCoder", "Llama", "Mistral", "MistralList", "DeepSeekV3", "DeepSeekV31"),
    *("Granite", "Harmony"),
]

# Harmony's marks are special tokens in each of its models.
KINDS = [(f, special) for f in ENFORCED for special in (True, False) if special or f != "Harmony"]


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


def tool(name: str, *, strict: bool = True) -> ToolSchema:
    schema = SCHEMAS[name]
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

    def parts(self, ids: list[int]) -> list[Part]:
        parser = new_parser(
            self.style, "", SCHEMAS, hidden=frozenset(self.vocabulary.marks.values())
        )
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


@pytest.mark.parametrize(("family", "special"), KINDS)
def test_what_must_be_calls_is_calls_by_their_schema(family, special):
    writer = Writer(family, required("get_weather", "now"), special=special)
    names: set[str] = set()
    for seed in range(24):
        ids, has_ended = writer.write(seed)
        if not has_ended:
            continue
        parts = writer.parts(ids)
        assert all(part.kind is not Kind.TEXT for part in parts), parts
        calls = calls_of(parts)
        assert calls
        for name, arguments in calls:
            Draft202012Validator(SCHEMAS[name]).validate(arguments)
            names.add(name)
    assert names == {"get_weather", "now"}


@pytest.mark.parametrize("family", ENFORCED)
def test_one_tool_and_one_call(family):
    writer = Writer(family, required("now", single=True))
    for seed in range(4):
        ids, has_ended = writer.write(seed)
        if has_ended:
            assert calls_of(writer.parts(ids)) == [("now", {})]


@pytest.mark.parametrize(("family", "special"), KINDS)
def test_where_calls_are_free_text_is_right_and_a_strict_call_is_held(family, special):
    demand = Demand(tools=[tool("get_weather")], required=False, single=False)
    style, vocabulary = vocabulary_of(family, special=special)
    text = write_grammar(style, demand, vocabulary.special_id)
    grammars = Grammars(vocabulary, vocab_size=VOCAB, eos_ids=frozenset({END}))
    compiled = grammars.compile((Grammar.lark(text), None))
    begin = "<|channel|>final<|message|>" if family == "Harmony" else ""
    assert follows(compiled.start(), vocabulary, begin + "It is <b>so</b>: (nothing) [else].")
    good = EXAMPLES[family].replace("DAYS", "3")
    assert follows(compiled.start(), vocabulary, good)
    assert not follows(compiled.start(), vocabulary, EXAMPLES[family].replace("DAYS", "99"))
    parser = new_parser(style, "", SCHEMAS)
    assert calls_of(parser.feed(good) + parser.close()) == [
        ("get_weather", {"city": "Oslo", "days": 3})
    ]


_OBJECT = '{"name": "get_weather", "arguments": {"city": "Oslo", "days": DAYS}}'
_ARGUMENTS = '{"city": "Oslo", "days": DAYS}'
_CALLS = "<\uff5ctool▁calls▁begin\uff5c><\uff5ctool▁call▁begin\uff5c>"
_SEP = "<\uff5ctool▁sep\uff5c>"
_ENDS = "<\uff5ctool▁call▁end\uff5c><\uff5ctool▁calls▁end\uff5c>"
EXAMPLES = {
    "Hermes": f"<tool_call>\n{_OBJECT}\n</tool_call>",
    "QwenCoder": (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n"
        "<parameter=days>\nDAYS\n</parameter>\n</function>\n</tool_call>"
    ),
    "Llama": _OBJECT.replace("arguments", "parameters"),
    "Mistral": f"[TOOL_CALLS]get_weather[ARGS]{_ARGUMENTS}",
    "MistralList": f"[TOOL_CALLS] [{_OBJECT}]",
    "DeepSeekV3": f"{_CALLS}function{_SEP}get_weather\n```json\n{_ARGUMENTS}\n```{_ENDS}",
    "DeepSeekV31": f"{_CALLS}get_weather{_SEP}{_ARGUMENTS}{_ENDS}",
    "Granite": f"<|tool_call|>[{_OBJECT}]",
    "Harmony": (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary"
        f" to=functions.get_weather <|constrain|>json<|message|>{_ARGUMENTS}"
    ),
}


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


def test_a_schema_beside_tools_holds_the_text():
    demand = Demand(
        tools=[tool("now")], required=False, single=False, text_schema='{"type": "integer"}'
    )
    for family in ("Hermes", "Mistral", "Harmony"):
        style, vocabulary = vocabulary_of(family, special=True)
        text = write_grammar(style, demand, vocabulary.special_id)
        grammars = Grammars(vocabulary, vocab_size=VOCAB, eos_ids=frozenset({END}))
        compiled = grammars.compile((Grammar.lark(text), None))
        begin = "<|channel|>final<|message|>" if family == "Harmony" else ""
        assert follows(compiled.start(), vocabulary, begin + "42")
        assert not follows(compiled.start(), vocabulary, begin + "forty-two")


@pytest.mark.parametrize("family", ["Gemma", "Pythonic", "Liquid"])
def test_a_format_without_a_grammar_says_so(family):
    style, vocabulary = vocabulary_of(family, special=True)
    with pytest.raises(InvalidRequestError, match="calls in this format cannot be enforced"):
        write_grammar(style, required("now"), vocabulary.special_id)


def test_channels_without_special_tokens_have_no_grammar():
    style, vocabulary = vocabulary_of("Harmony", special=False)
    with pytest.raises(InvalidRequestError, match="lacks the special tokens"):
        write_grammar(style, required("now"), vocabulary.special_id)


def test_what_tags_cannot_be_held_to_is_named():
    schema = {"type": "object", "properties": {"city": {"type": "string", "minLength": 3}}}
    held = ToolSchema(name="f", schema=schema, json="{}")
    style, vocabulary = vocabulary_of("QwenCoder", special=True)
    demand = Demand(tools=[held], required=True, single=False)
    with pytest.raises(InvalidRequestError, match="'f' has the keyword 'minLength'"):
        write_grammar(style, demand, vocabulary.special_id)

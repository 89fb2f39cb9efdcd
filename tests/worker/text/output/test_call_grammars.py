"""What a format's grammar allows, its parser reads: calls, with arguments by their schema."""

from __future__ import annotations

import pytest
from jsonschema import Draft202012Validator

from call_writer import (
    SCHEMAS,
    VOCAB,
    Writer,
    calls_of,
    follows,
    required,
    tool,
    vocabulary_of,
)
from modelfleet_worker.errors import InvalidRequestError
from modelfleet_worker.text.constraint import Grammars
from modelfleet_worker.text.grammar import Grammar
from modelfleet_worker.text.output.grammar import Demand, write_grammar
from modelfleet_worker.text.output.parser import new_parser
from modelfleet_worker.text.output.parts import Kind
from modelfleet_worker.text.output.rules import ToolSchema
from structured import END

ENFORCED = [
    *("Hermes", "QwenCoder", "Llama", "Mistral", "MistralList", "DeepSeekV3", "DeepSeekV31"),
    *("Granite", "Harmony", "Gemma", "Pythonic", "Liquid"),
]
OF_TOKENS = {"Harmony": "<|channel|>final<|message|>", "Gemma": ""}  # their marks are tokens always
KINDS = [
    (f, special) for f in ENFORCED for special in (True, False) if special or f not in OF_TOKENS
]


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
    begin = OF_TOKENS.get(family, "")
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
    "Gemma": '<|tool_call>call:get_weather{city:<|"|>Oslo<|"|>,days:DAYS}<tool_call|>',
    "Pythonic": "[get_weather(city='Oslo', days=DAYS)]",
    "Liquid": '<|tool_call_start|>[get_weather(city="Oslo", days=DAYS)]<|tool_call_end|>',
}


def test_a_schema_beside_tools_holds_the_text():
    demand = Demand(
        tools=[tool("now")], required=False, single=False, text_schema='{"type": "integer"}'
    )
    for family in ("Hermes", "Mistral", "Harmony"):
        style, vocabulary = vocabulary_of(family, special=True)
        text = write_grammar(style, demand, vocabulary.special_id)
        grammars = Grammars(vocabulary, vocab_size=VOCAB, eos_ids=frozenset({END}))
        compiled = grammars.compile((Grammar.lark(text), None))
        begin = OF_TOKENS.get(family, "")
        assert follows(compiled.start(), vocabulary, begin + "42")
        assert not follows(compiled.start(), vocabulary, begin + "forty-two")


@pytest.mark.parametrize("family", OF_TOKENS)
def test_channels_and_quotes_without_special_tokens_have_no_grammar(family):
    style, vocabulary = vocabulary_of(family, special=False)
    with pytest.raises(InvalidRequestError, match="lacks the special token"):
        write_grammar(style, required("now"), vocabulary.special_id)


def test_what_tags_cannot_be_held_to_is_named():
    schema = {"type": "object", "properties": {"city": {"type": "string", "minLength": 3}}}
    held = ToolSchema(name="f", schema=schema, json="{}")
    style, vocabulary = vocabulary_of("QwenCoder", special=True)
    demand = Demand(tools=[held], required=True, single=False)
    with pytest.raises(InvalidRequestError, match="'f' has the keyword 'minLength'"):
        write_grammar(style, demand, vocabulary.special_id)

"""What the answer to a chat is held to: decided by tools, their choice, and the format beside."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from modelfleet_proto import worker_pb2 as pb
from modelfleet_worker.errors import InvalidRequestError
from modelfleet_worker.serving.chat_answers import plan_answer
from modelfleet_worker.serving.chats import ChatPrompt
from modelfleet_worker.serving.requests import GenerationRequest, read_request
from modelfleet_worker.text.grammar import Grammar, GrammarKind
from modelfleet_worker.text.output.styles import OutputStyle, find_style
from structured import SmallVocabulary

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}
ODD = {"type": "object", "properties": {"n": {"type": "array", "uniqueItems": True}}}
CHOICE = pb.ToolChoice


def planned(
    *,
    family: str = "Hermes",
    style: OutputStyle | None = None,
    strict: bool = False,
    schema: dict[str, Any] = SCHEMA,
    grammar: Grammar | None = None,
    prompt: str = "",
    with_tools: bool = True,
    **choice: Any,
) -> GenerationRequest:
    tokenizer = SmallVocabulary()
    named = find_style("", tool_parser=family, reasoning_parser="Think")
    tokenizer.style = named if style is None else style
    function = {"name": "f", "strict": strict, "parameters": schema}
    tools = [{"type": "function", "function": function}, {"function": {"name": "g"}}]
    chat = pb.Chat(
        messages=[pb.ChatMessage(role="user", content="hi")],
        tools=json.dumps(tools) if with_tools else "",
        tool_choice=CHOICE(**choice),
        takes_parts=True,
    )
    asked = replace(read_request(pb.GenerateRequest(chat=chat), 503), grammar=grammar)
    assert isinstance(asked.prompt, ChatPrompt)
    return plan_answer(asked, asked.prompt, prompt, tokenizer)


def test_tools_alone_hold_nothing_and_are_read():
    asked = planned()
    assert asked.grammar is None
    assert asked.new_parser is not None


def test_a_required_call_is_held_also_where_a_schema_cannot_be():
    asked = planned(mode=CHOICE.REQUIRED)
    assert asked.grammar is not None
    assert asked.grammar.kind is GrammarKind.LARK
    assert '"integer"' in asked.grammar.text
    loose = planned(mode=CHOICE.REQUIRED, schema=ODD)
    assert loose.grammar is not None
    assert '%json {"type": "object"}' in loose.grammar.text


def test_a_named_tool_is_the_only_one_in_the_grammar():
    asked = planned(mode=CHOICE.REQUIRED, name="g")
    assert asked.grammar is not None
    assert '\\"name\\": \\"g\\"' in asked.grammar.text
    assert '\\"name\\": \\"f\\"' not in asked.grammar.text


def test_a_strict_tool_is_held_or_refused_by_the_keyword():
    asked = planned(strict=True)
    assert asked.grammar is not None
    assert "TEXT" in asked.grammar.text  # an answer in words is right, too
    with pytest.raises(InvalidRequestError, match=r"the tool 'f' .*uniqueItems"):
        planned(strict=True, schema=ODD)
    with pytest.raises(InvalidRequestError, match="must be of type 'object'"):
        planned(strict=True, schema={"type": "string"})


def test_tools_that_may_not_be_called_hold_nothing():
    asked = planned(strict=True, mode=CHOICE.NONE)
    assert asked.grammar is None


def test_a_format_without_a_grammar_is_refused_where_calls_must_be_held():
    """A checkpoint's own template says how calls are read, not how they are written."""
    template = {"fields": {"tool_calls": {"open": "<call>", "close": "</call>"}}}
    style = find_style("", response_template=template)
    assert planned(style=style).grammar is None
    for demand in ({"mode": CHOICE.REQUIRED}, {"strict": True}):
        with pytest.raises(InvalidRequestError, match="cannot be enforced"):
            planned(style=style, **demand)


@pytest.mark.parametrize("family", ["QwenCoder", "Pythonic", "Liquid"])
def test_where_a_format_cannot_hold_a_schema_only_a_strict_tool_is_refused(family):
    """It writes no JSON, of which a pattern could be held to."""
    schema = {"type": "object", "properties": {"n": {"type": "string", "pattern": "^a"}}}
    with pytest.raises(InvalidRequestError, match="'f' has the keyword 'pattern'"):
        planned(family=family, schema=schema, strict=True)
    for demand in ({"mode": CHOICE.REQUIRED}, {"mode": CHOICE.REQUIRED, "name": "f"}):
        asked = planned(family=family, schema=schema, **demand)
        assert asked.grammar is not None
        assert '"n' not in asked.grammar.text


JSON = Grammar.json_schema('{"type": "integer"}')


def test_a_schema_of_the_text_stands_beside_calls():
    asked = planned(grammar=JSON)
    assert asked.grammar is not None
    assert asked.grammar.text.startswith("start: text | ")
    assert planned(grammar=JSON, with_tools=False).grammar == JSON
    with pytest.raises(InvalidRequestError, match="beside tools"):
        planned(grammar=Grammar.regex("a+"))


def test_channels_hold_their_final_message_to_a_schema():
    with pytest.raises(InvalidRequestError, match="lacks the special tokens"):
        planned(family="Harmony", grammar=JSON, with_tools=False)


def test_what_is_held_begins_after_the_reasoning():
    asked = planned(grammar=JSON, with_tools=False, prompt="<|im_start|>assistant\n<think>\n")
    assert asked.reasoning is not None
    assert asked.reasoning.opened
    assert (asked.reasoning.open.text, asked.reasoning.close.text) == ("<think>", "</think>")
    begun = planned(grammar=JSON, with_tools=False).reasoning
    assert begun is not None
    assert not begun.opened

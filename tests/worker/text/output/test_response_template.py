"""Checkpoints that say how their answers are read: by transformers' parser, and never an error."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfleet_worker.errors import ModelError
from modelfleet_worker.text.output.parser import new_parser
from modelfleet_worker.text.output.parts import Kind, Part, merge
from modelfleet_worker.text.output.response_template import check_template
from modelfleet_worker.text.output.styles import find_style
from tool_templates import HERMES

TEMPLATE: dict[str, Any] = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {
        "reasoning_content": {"open": "<r>", "close": "</r>", "content": "text"},
        "tool_calls": {
            "open_pattern": r"\s*<call (?P<name>\w+)>",
            "close": "</call>",
            "repeats": True,
            "content": "json",
            "transform": {
                "type": "function",
                "function": {"name": "{name}", "arguments": "{content}"},
            },
        },
        "content": {"close": "<end>", "content": "text"},
    },
}
TOOLS = {"now": {"properties": {"n": {"type": "integer"}}}}
PROMPT = "<|user|>hi<|assistant|>"


def parsed(pieces: list[str], *, prompt: str = PROMPT, single: bool = False) -> list[Part]:
    style = find_style(HERMES, response_template=TEMPLATE)
    parser = new_parser(style, prompt, TOOLS, hidden=frozenset({"<end>"}), single=single)
    parts: list[Part] = []
    for piece in pieces:
        parts += parser.feed(piece)
    return merge(parts + parser.close())


def test_the_checkpoints_own_comes_before_what_its_template_shows():
    assert find_style(HERMES, response_template=TEMPLATE).tools == "ResponseTemplate"
    named = find_style(HERMES, response_template=TEMPLATE, tool_parser="Llama")
    assert (named.tools, named.template) == ("Llama", None)


def test_reasoning_text_and_calls_come_apart():
    text = '<r>Hm.</r>I ask. <call now>{"n": "5"}</call><call now>{}</call>'
    assert (
        parsed([text])
        == parsed(list(text))
        == [
            Part(Kind.REASONING, "Hm."),
            Part(Kind.TEXT, "I ask."),
            Part(Kind.CALL, '{"n": 5}', 0, "now"),
            Part(Kind.CALL, "{}", 1, "now"),
        ]
    )


def test_a_prompt_may_open_the_reasoning():
    assert parsed(["So.</r>Yes."], prompt=PROMPT + "<r>") == [
        Part(Kind.REASONING, "So."),
        Part(Kind.TEXT, "Yes."),
    ]


def test_a_call_that_cannot_be_read_is_text_and_what_follows_is_read():
    text = "<call now>{broken</call><call now>{}</call>"
    assert parsed(list(text)) == [Part(Kind.TEXT, "{broken"), Part(Kind.CALL, "{}", 0, "now")]
    assert parsed(["<call now>[1"]) == [Part(Kind.TEXT, "[1")]


def test_a_call_that_cannot_be_read_is_counted():
    style = find_style(HERMES, response_template=TEMPLATE)
    parser = new_parser(style, PROMPT, TOOLS)
    parser.feed("<call now>{broken</call><call now>{}</call>")
    parser.close()
    assert parser.failed_calls == 1


PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            ["<r>", "</r>", "<call now>", "</call>", "<end>", '{"n": 1}', " ", "\n", "{"]
        ),
        st.text(max_size=3),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=100)
@given(pieces=PIECES)
def test_whatever_comes_is_read_alike_in_any_pieces(pieces):
    text = "".join(pieces)
    assert parsed(pieces) == parsed([text]) == parsed(list(text))


def test_a_template_that_cannot_be_read_ends_the_load():
    with pytest.raises(ModelError, match="response_template is wrong: Unsupported"):
        check_template(TEMPLATE | {"version": 7})

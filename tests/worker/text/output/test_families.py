"""What a family's template prints for a call, its parser reads: in any pieces the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfleet_worker.text.chat_template import ChatTemplate
from modelfleet_worker.text.output.parser import new_parser
from modelfleet_worker.text.output.parts import Kind, Part, merge
from modelfleet_worker.text.output.styles import OutputStyle, find_style
from modelfleet_worker.text.tokenizer import Chat, Message
from tool_templates import FAMILIES, ONE_CALL_ONLY

SCHEMAS: dict[str, Any] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "exact": {"type": "boolean"},
            "parts": {"type": "array", "items": {"type": "string"}},
            "where": {"type": "object"},
        },
        "required": ["city"],
    },
    "now": {"type": "object", "properties": {}},
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": schema}}
    for name, schema in SCHEMAS.items()
]
WORDS = st.text(st.sampled_from("ab 7é🙂-_/:;"), min_size=1, max_size=12).map(str.strip)
ARGUMENTS = st.fixed_dictionaries(
    {"city": WORDS},
    optional={
        "days": st.integers(-9, 10**12),
        "parts": st.lists(WORDS, max_size=3),
        "where": st.dictionaries(st.sampled_from(["lat", "lon"]), st.integers(0, 90), max_size=2),
    },
)
Calls = list[tuple[str, dict[str, Any]]]


def call(number: int, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": f"call_{number:024x}", "type": "function", "function": function}


def written(family: str, calls: Calls, *, text: str = "", reasoning: str = "") -> str:
    """What the model of the family would have written, as its template shows it."""
    template, end = FAMILIES[family]
    chats = ChatTemplate(template, {})
    asked = [Message("user", "hi")]
    made = tuple(call(i, name, arguments) for i, (name, arguments) in enumerate(calls))
    answered = [*asked, Message("assistant", text, tool_calls=made, reasoning=reasoning)]
    prompt = chats.render(Chat(messages=asked, tools=TOOLS))
    whole = chats.render(Chat(messages=answered, tools=TOOLS, add_generation_prompt=False))
    assert whole.startswith(prompt), (prompt, whole)
    assert whole.endswith(end)
    return whole[len(prompt) : -len(end)]


def parsed(
    style: OutputStyle, pieces: list[str], *, prompt: str = "", single: bool = False
) -> list[Part]:
    parser = new_parser(style, prompt, SCHEMAS, single=single)
    parts: list[Part] = []
    for piece in pieces:
        parts += parser.feed(piece)
        if parser.is_done:
            break
    return merge(parts + parser.close())


def calls_of(parts: list[Part]) -> Calls:
    texts: dict[int, str] = {}
    names: dict[int, str] = {}
    for part in parts:
        if part.kind is Kind.CALL:
            texts[part.index] = texts.get(part.index, "") + part.text
            names[part.index] = names.get(part.index) or part.name
    return [(names[index], json.loads(text)) for index, text in sorted(texts.items())]


def style_of(family: str) -> OutputStyle:
    return find_style(FAMILIES[family][0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_template_shows_its_family(family):
    assert style_of(family).tools == family


@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None, max_examples=12)
@given(arguments=ARGUMENTS, data=st.data())
def test_a_call_comes_back_whatever_the_pieces(family, arguments, data):
    calls: Calls = [("get_weather", arguments)]
    if family not in ONE_CALL_ONLY:
        calls += [("now", {})]
    text = written(family, calls)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8).map(sorted))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    style = style_of(family)
    parts = parsed(style, pieces)
    assert calls_of(parts) == calls
    assert [part for part in parts if part.kind is not Kind.CALL] == []
    assert parts == parsed(style, [text]) == parsed(style, list(text))


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - ONE_CALL_ONLY))
def test_where_one_call_is_asked_for_the_answer_ends_with_it(family):
    text = written(family, [("now", {}), ("get_weather", {"city": "Oslo"})])
    assert calls_of(parsed(style_of(family), list(text), single=True)) == [("now", {})]
    assert calls_of(parsed(style_of(family), [text], single=True)) == [("now", {})]


REASONING = ["Hermes", "QwenCoder", "Mistral", "Gemma", "Harmony"]


@pytest.mark.parametrize("family", REASONING)
def test_reasoning_comes_apart_from_text_and_calls(family):
    text = written(family, [("now", {})], reasoning="Let me see.\nYes: now.")
    parts = parsed(style_of(family), list(text))
    assert [(part.kind, part.text) for part in parts] == [
        (Kind.REASONING, "Let me see.\nYes: now."),
        (Kind.CALL, "{}"),
    ]


@pytest.mark.parametrize("family", ["Hermes", "Mistral", "Gemma"])
def test_text_before_a_call_stays_text(family):
    text = written(family, [("now", {})], text="I look at the clock.")
    (said, called) = parsed(style_of(family), list(text))
    assert (said.kind, said.text) == (Kind.TEXT, "I look at the clock.")
    assert (called.kind, called.name) == (Kind.CALL, "now")


@settings(deadline=None, max_examples=150)
@given(
    family=st.sampled_from(list(FAMILIES)),
    pieces=st.lists(
        st.one_of(
            st.sampled_from(
                [
                    *("<tool_call>", "</tool_call>", "<function=", "<parameter=", "</parameter>"),
                    *("[TOOL_CALLS]", "[ARGS]", "<|tool_call|>", "[", "]", "{", "}", '"', ":", ","),
                    *("<\uff5ctool▁calls▁begin\uff5c>", "<\uff5ctool▁call▁begin\uff5c>"),
                    *("<\uff5ctool▁sep\uff5c>", "<|tool_call>", "call:", '<|"|>', "<tool_call|>"),
                    *(
                        "<|python_start|>",
                        "<|channel|>",
                        "<|message|>",
                        "analysis",
                        "final",
                        "<|end|>",
                    ),
                    *("now", "get_weather", "name", "arguments", "parameters", "(", ")", "=", ">"),
                    *("<think>", "</think>", "\n", " ", "\\", "\\u12", "```json", "true", "-1e5"),
                    *('{"name": "now", "arguments": {', "to=functions.now", "<|start|>", "'"),
                ]
            ),
            st.text(max_size=3),
        ),
        max_size=20,
    ),
    single=st.booleans(),
)
def test_whatever_a_model_writes_is_read_without_an_error_and_alike(family, pieces, single):
    style, text = style_of(family), "".join(pieces)
    whole = parsed(style, [text], single=single)
    assert parsed(style, pieces, single=single) == whole
    assert parsed(style, list(text), single=single) == whole
    if single:
        assert sum(bool(part.name) for part in whole) <= 1


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("Hermes", "Use <tool_call> tags."),
        ("Hermes", '<tool_call>{"name": "now", "arguments": [1]}</tool_call>'),
        ("Hermes", '<tool_call>{"tool": "now"}</tool_call>'),
        ("QwenCoder", "<tool_call>\n<function=now>\nno parameters"),
        ("Llama", '{"name": "unheard_of", "parameters": {}}'),
        ("Llama", '{"answer": 42}'),
        ("MistralList", "[TOOL_CALLS] [1, 2]"),
        ("Granite", "<|tool_call|>[now()]"),
        ("Gemma", "<|tool_call>call:now{a:b}<tool_call|>"),
        ("Pythonic", "<|python_start|>[now(1)]<|python_end|>"),
        ("Pythonic", "[1, 2, 3] are numbers"),
        ("Pythonic", "[unheard_of()]"),
    ],
)
def test_what_is_no_call_is_text(family, text):
    assert [(part.kind, part.text) for part in parsed(style_of(family), list(text))] == [
        (Kind.TEXT, text)
    ]


def test_marks_that_are_special_tokens_are_no_text():
    style = style_of("Gemma")
    hidden = frozenset(style.marks)
    parser = new_parser(style, "", SCHEMAS, hidden=hidden)
    parts = parser.feed("a<|tool_call>no<tool_call|>b") + parser.close()
    assert merge(parts) == [Part(Kind.TEXT, "anob")]


def test_a_call_that_is_cut_off_keeps_what_it_has():
    parts = parsed(style_of("Hermes"), ['<tool_call>{"name": "now", "arguments": {"a": [1, '])
    assert parts == [Part(Kind.CALL, '{"a": [1, ', 0, "now")]


@pytest.mark.parametrize(
    ("family", "text", "failed"),
    [
        ("Hermes", '<tool_call>{"name": "now", "arguments": {}}</tool_call>', 0),
        ("Hermes", '<tool_call>{"tool": "now"}</tool_call>', 1),
        ("Hermes", '<tool_call>{"name": "now", "arguments": {"a": [1, ', 1),
        ("Hermes", '{"name": "now"}', 0),
        ("Llama", '{"answer": 42}', 0),
        ("Gemma", "<|tool_call>call:now{a:b}<tool_call|> and <|tool_call>no<tool_call|>", 2),
    ],
)
def test_calls_that_were_begun_and_are_none_are_counted(family, text, failed):
    parser = new_parser(style_of(family), "", SCHEMAS)
    for piece in text:
        parser.feed(piece)
    parser.close()
    assert parser.failed_calls == failed


def test_reasoning_that_the_prompt_opened_needs_no_mark():
    style = style_of("Hermes")
    opened = "<|im_start|>assistant\n<think>\n"
    parts = parsed(style, ["It is so", ".\n</th", "ink>\n\nYes."], prompt=opened)
    assert parts == [Part(Kind.REASONING, "It is so."), Part(Kind.TEXT, "Yes.")]
    closed = opened + "\n</think>\n\n"
    assert parsed(style, ["Yes."], prompt=closed) == [Part(Kind.TEXT, "Yes.")]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("5.0", 5),
        ("five", "five"),
        ("null", None),
    ],
)
def test_parameters_in_tags_are_cast_by_their_schema(text, value):
    schema = {"properties": {"n": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}}
    parser = new_parser(style_of("QwenCoder"), "", {"f": schema})
    written = f"<tool_call>\n<function=f>\n<parameter=n>\n{text}\n</parameter>\n</function>"
    parts = parser.feed(written) + parser.close()
    assert calls_of(parts) == [("f", {"n": value})]


def test_a_long_answer_keeps_little_of_itself():
    parser = new_parser(style_of("Hermes"), "", SCHEMAS)
    parser.feed('<tool_call>{"name": "now", "arguments": {"text": "')
    for _ in range(2000):
        parser.feed("word " * 20)
    assert len(parser._reader.buffer) < 10_000  # type: ignore[attr-defined]

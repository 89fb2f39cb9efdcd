"""Chats with tools are rendered as transformers renders them, and nothing of them is lost."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from modelfleet_worker.errors import InvalidRequestError
from modelfleet_worker.text.chat_template import ChatTemplate
from modelfleet_worker.text.tokenizer import Chat, Message
from prepare_smollm2 import model_folder
from tool_templates import FAMILIES, HARMONY, HERMES, MISTRAL_LIST, NO_TOOLS

ARGUMENTS = {"city": "Ålesund", "days": 2}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Says the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def call(call_id: str = "call_0123456789abcdef01234567") -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": json.dumps(ARGUMENTS, ensure_ascii=False)}
    return {"id": call_id, "type": "function", "function": function}


def conversation(call_id: str = "call_0123456789abcdef01234567") -> list[Message]:
    return [
        Message("user", "What is the weather?"),
        Message("assistant", "", tool_calls=(call(call_id),)),
        Message("tool", "zqx4711", tool_call_id=call_id),
    ]


@cache
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_folder())


def ours(template: str, messages: list[Message], **fields: Any) -> str:
    return ChatTemplate(template, {}).render(
        Chat(messages=messages, **({"tools": [TOOL]} | fields))
    )


def test_a_conversation_with_tools_is_rendered_as_transformers_does():
    messages = [
        {"role": "user", "content": "What is the weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [call() | {"function": {"name": "get_weather", "arguments": ARGUMENTS}}],
        },
        {"role": "tool", "content": "zqx4711", "tool_call_id": call()["id"]},
    ]
    expected = tokenizer().apply_chat_template(
        messages, tools=[TOOL], chat_template=HERMES, tokenize=False, add_generation_prompt=True
    )
    assert ours(HERMES, conversation()) == expected
    assert '"arguments": {"city": "Ålesund", "days": 2}' in expected


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_shows_calls_and_results(family):
    """Whether it takes arguments as an object or as text, and whatever ids it wants."""
    prompt = ours(FAMILIES[family][0], conversation())
    assert "zqx4711" in prompt
    assert "Ålesund" in prompt
    assert "get_weather" in prompt
    assert "'city'" not in prompt
    assert '\\"city' not in prompt


def test_a_template_that_wants_short_ids_gets_equal_ones_for_equal_calls():
    prompt = ours(MISTRAL_LIST, conversation())
    (made,) = json.loads(prompt.partition("[TOOL_CALLS] ")[2].partition("</s>")[0])
    assert len(made["id"]) == 9
    assert '"id": "abcDEF123"' in ours(MISTRAL_LIST, conversation("abcDEF123"))


def test_no_tools_and_an_empty_list_are_not_the_same():
    template = "{{ tools is none }} {{ tools }}" + NO_TOOLS
    asked = [Message("user", "hi")]
    assert ours(template, asked, tools=None).startswith("True None")
    assert ours(template, asked, tools=[]).startswith("False []")


def test_a_template_without_tools_says_so():
    with pytest.raises(InvalidRequestError, match="this model's chat template has no tools"):
        ours(NO_TOOLS, [Message("user", "hi")])
    assert ours(NO_TOOLS, [Message("user", "hi")], tools=[])


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        ("{# tools #}" + NO_TOOLS, [Message("user", "hi")], "leaves the tool 'get_weather' out"),
        (
            "{{ tools }}{% for m in messages if m.role != 'tool' %}{{ m.content }}{% endfor %}",
            conversation(),
            "leaves the result of a tool out",
        ),
        (
            "{{ tools }}{% for m in messages %}{% if m.role == 'tool' %}"
            "{{ raise_exception('no such role') }}{% endif %}{{ m.content }}{% endfor %}",
            conversation(),
            "no such role",
        ),
    ],
    ids=["tool", "result", "role"],
)
def test_what_a_template_leaves_out_is_refused(template, messages, message):
    with pytest.raises(InvalidRequestError, match=message):
        ours(template, messages)


def test_a_result_has_the_name_of_its_call():
    """OpenAI's messages of tools have none, and some templates print it."""
    assert "<|start|>functions.get_weather to=assistant" in ours(HARMONY, conversation())


def test_reasoning_has_the_name_that_the_template_knows():
    said = [*conversation()[:1], Message("assistant", "Rain.", reasoning="It is autumn.")]
    for template, shown in (
        (HERMES, "<think>\nIt is autumn.\n</think>"),
        (HARMONY, "<|channel|>analysis<|message|>It is autumn.<|end|>"),
    ):
        assert shown in ours(template, said, add_generation_prompt=False)


def test_arguments_of_the_template_are_variables():
    template = "{{ reasoning_effort }} {{ custom.a[0] }}" + NO_TOOLS
    asked = [Message("user", "hi")]
    arguments = {"reasoning_effort": "low", "custom": {"a": [5]}}
    assert ours(template, asked, tools=None, arguments=arguments).startswith("low 5")


@pytest.mark.parametrize(("effort", "thinks"), [("none", "False"), ("high", "True")])
def test_an_effort_decides_whether_a_model_thinks_that_knows_only_that(effort, thinks):
    template = "{{ enable_thinking }}" + NO_TOOLS
    asked = [Message("user", "hi")]
    arguments = {"reasoning_effort": effort}
    assert ours(template, asked, tools=None, arguments=arguments).startswith(thinks)


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "bos_token"])
def test_what_the_request_says_elsewhere_is_no_argument(name):
    chats = ChatTemplate(NO_TOOLS, {"bos_token": "<s>"})
    with pytest.raises(InvalidRequestError, match=f"chat_template_kwargs.{name} cannot be set"):
        chats.render(Chat(messages=[Message("user", "hi")], arguments={name: "x"}))


def test_arguments_that_are_no_json_go_back_to_the_model_as_they_were():
    broken = {"id": "1", "function": {"name": "get_weather", "arguments": '{"city": Oslo'}}
    messages = [Message("user", "hi"), Message("assistant", "", tool_calls=(broken,))]
    assert '"arguments": "{\\"city\\": Oslo"' in ours(HERMES, messages)

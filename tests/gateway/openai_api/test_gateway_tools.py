"""Tools and reasoning: what a worker is asked, and what clients get of the parts it answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfleet_gateway.errors import InvalidRequestError
from modelfleet_gateway.openai_api.bulk import BULKY, cut
from modelfleet_gateway.openai_api.chat import ChatRequest
from modelfleet_gateway.openai_api.chat_answer import ChatAnswer
from modelfleet_gateway.openai_api.fields import read_request
from modelfleet_proto import worker_pb2 as pb

PARAMETERS = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "title": "Weather",
    "properties": {"city": {"type": "string"}, "n": {"type": "integer", "maximum": 2**53 - 1}},
}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "é 🙂", "parameters": PARAMETERS},
}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'},
}
HISTORY = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "Hm."},
    {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "Rain"}]},
]


def asked(is_cut: bool = False, **fields: Any) -> pb.GenerateRequest:
    body = {"model": "m", "seed": 7, "messages": HISTORY, **fields}
    raw = bytearray(json.dumps(body).encode())
    if not is_cut:
        (prompt,) = read_request(ChatRequest, raw, 1.0).prompts
        return pb.GenerateRequest.FromString(prompt)
    work = cut(raw)
    while True:
        try:
            next(work)
        except StopIteration as end:
            bulk = end.value
            break
    (prompt,) = read_request(ChatRequest, bulk.skeleton, 1.0, bulk).prompts
    return pb.GenerateRequest.FromString(prompt)


@pytest.mark.parametrize("is_cut", [False, True])
def test_a_conversation_with_calls_reaches_the_worker(is_cut):
    _, assistant, tool = asked(is_cut).chat.messages
    assert (assistant.content, json.loads(assistant.tool_calls)) == ("", [CALL])
    assert assistant.reasoning_content == "Hm."
    assert (tool.role, tool.content, tool.tool_call_id) == ("tool", "Rain", "call_1")


@pytest.mark.parametrize("is_cut", [False, True])
def test_tools_reach_the_worker_as_they_were_sent(is_cut):
    chat = asked(is_cut, tools=[TOOL]).chat
    assert json.loads(chat.tools) == [TOOL]
    assert list(json.loads(chat.tools)[0]["function"]["parameters"]) == list(PARAMETERS)
    assert chat.takes_parts
    assert asked(is_cut, tools=[]).chat.tools == "[]"  # not the same as none
    assert asked(is_cut).chat.tools == asked(is_cut, tools=None).chat.tools == ""


MODES = pb.ToolChoice


@pytest.mark.parametrize(
    ("fields", "mode", "name", "single"),
    [
        ({}, MODES.AUTO, "", False),
        ({"tool_choice": "auto", "parallel_tool_calls": False}, MODES.AUTO, "", True),
        ({"tool_choice": "none"}, MODES.NONE, "", False),
        ({"tool_choice": "required", "parallel_tool_calls": True}, MODES.REQUIRED, "", False),
        (
            {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
            MODES.REQUIRED,
            "get_weather",
            False,
        ),
    ],
)
def test_the_choice_of_a_tool_reaches_the_worker(fields, mode, name, single):
    choice = asked(tools=[TOOL], **fields).chat.tool_choice
    assert (choice.mode, choice.name, choice.single) == (mode, name, single)


@pytest.mark.parametrize("is_cut", [False, True])
def test_arguments_of_the_template_reach_the_worker(is_cut):
    chat = asked(is_cut, reasoning_effort="low").chat
    assert json.loads(chat.template_arguments) == {"reasoning_effort": "low"}
    chat = asked(is_cut, reasoning_effort="low", chat_template_kwargs={"enable_thinking": False})
    assert json.loads(chat.chat.template_arguments) == {
        "enable_thinking": False,
        "reasoning_effort": "low",
    }
    assert asked(is_cut, chat_template_kwargs={}).chat.template_arguments == ""


def test_a_refusal_of_the_assistant_is_what_it_said():
    said = [
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "I will not."}]},
        {"role": "assistant", "content": None, "refusal": "Nor this."},
    ]
    messages = asked(messages=said).chat.messages
    assert [message.content for message in messages] == ["I will not.", "Nor this."]


LONG = st.builds(lambda text: text * BULKY, st.sampled_from(['a"', "é\\", "🙂\n", "{[,1"]))


@settings(deadline=None, max_examples=30)
@given(description=LONG, arguments=LONG, result=LONG, values=st.lists(st.integers(0, 9)))
def test_what_is_cut_out_of_tools_and_calls_is_put_back(description, arguments, result, values):
    function = {"name": "f", "description": description, "parameters": {"enum": values * 4096}}
    call = {"id": "1", "function": {"name": "f", "arguments": json.dumps({"text": arguments})}}
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "tool_calls": [call], "reasoning_content": result},
        {"role": "tool", "content": result},
    ]
    fields = {
        "messages": messages,
        "tools": [{"type": "function", "function": function}],
        "chat_template_kwargs": {"more": description},
    }
    assert asked(is_cut=True, **fields) == asked(**fields)


def tokens(*parts: pb.OutputPart, **fields: Any) -> pb.Tokens:
    return pb.Tokens(ids=[1], parts=parts, **fields)


def text(text: str) -> pb.OutputPart:
    return pb.OutputPart(text=text)


def reasoning(text: str) -> pb.OutputPart:
    return pb.OutputPart(reasoning=text)


def call(index: int, name: str = "", arguments: str = "") -> pb.OutputPart:
    part = pb.ToolCallPart(index=index, name=name, arguments=arguments)
    return pb.OutputPart(tool_call=part)


STOP = pb.Finished(reason=pb.FINISH_REASON_STOP, completion_tokens=9)
EVENTS = [
    tokens(reasoning("Let me "), reasoning("see.")),
    tokens(text("I ask.")),
    tokens(call(0, "get_weather", '{"city"')),
    tokens(call(0, arguments=': "Oslo"}'), call(1, "now")),
    tokens(call(1, arguments="{}")),
]


def deltas(answer: ChatAnswer, index: int = 0) -> Iterator[dict[str, Any]]:
    for event in [*EVENTS, STOP]:
        for chunk in answer.chunks(index, event):
            (choice,) = json.loads(chunk)["choices"]
            yield choice


def test_parts_are_deltas_in_the_apis_shape():
    *chunks, last = deltas(ChatAnswer(model="m", created=1.0))
    assert last["finish_reason"] == "tool_calls"
    assert last["delta"] == {}
    said = [chunk["delta"] for chunk in chunks]
    assert said[:3] == [
        {"reasoning_content": "Let me "},
        {"reasoning_content": "see."},
        {"content": "I ask."},
    ]
    calls = [delta["tool_calls"][0] for delta in said[3:]]
    ids = [one.pop("id") for one in calls if "id" in one]
    assert [one["index"] for one in calls] == [0, 0, 1, 1]
    assert len(set(ids)) == 2
    assert all(one.startswith("call_") and len(one) == 29 for one in ids)
    assert calls == [
        {
            "index": 0,
            "type": "function",
            "function": {"name": "get_weather", "arguments": '{"city"'},
        },
        {"index": 0, "function": {"arguments": ': "Oslo"}'}},
        {"index": 1, "type": "function", "function": {"name": "now", "arguments": ""}},
        {"index": 1, "function": {"arguments": "{}"}},
    ]


def test_a_whole_answer_has_the_same_calls():
    answer = ChatAnswer(model="m", created=1.0)
    for event in [*EVENTS, STOP]:
        answer.collect(0, event)
    (choice,) = answer.whole()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    assert (message["content"], message["reasoning_content"]) == ("I ask.", "Let me see.")
    assert [(c["function"]["name"], c["function"]["arguments"]) for c in message["tool_calls"]] == [
        ("get_weather", '{"city": "Oslo"}'),
        ("now", "{}"),
    ]


def test_an_answer_of_calls_alone_has_no_content_and_one_without_calls_none_of_theirs():
    answer = ChatAnswer(model="m", created=1.0, choices_per_prompt=2)
    for event in (tokens(call(0, "now", "{}")), STOP):
        answer.collect(0, event)
    for event in (tokens(text("No.")), STOP):
        answer.collect(1, event)
    called, said = answer.whole()["choices"]
    assert called["message"]["content"] is None
    assert called["finish_reason"] == "tool_calls"
    assert said["message"] == {"role": "assistant", "content": "No.", "refusal": None}
    assert said["finish_reason"] == "stop"


def test_a_call_that_is_cut_off_ended_for_its_length():
    answer = ChatAnswer(model="m", created=1.0)
    answer.collect(0, tokens(call(0, "now", '{"a": ')))
    answer.collect(0, pb.Finished(reason=pb.FINISH_REASON_LENGTH))
    (choice,) = answer.whole()["choices"]
    assert choice["finish_reason"] == "length"


def test_logprobs_come_once_with_the_first_part():
    answer = ChatAnswer(model="m", created=1.0)
    entry = pb.TokenLogprobs(chosen=pb.TokenLogprob(id=1, token=b"x", logprob=-1.0))
    event = tokens(reasoning("r"), text("t"), logprobs=[entry])
    first, second = (json.loads(chunk)["choices"][0] for chunk in answer.chunks(0, event))
    assert first["delta"] == {"reasoning_content": "r"}
    assert [one["token"] for one in first["logprobs"]["content"]] == ["x"]
    assert (second["delta"], second["logprobs"]) == ({"content": "t"}, None)


NAMES = st.sampled_from(
    ["type", "function", "name", "arguments", "parameters", "strict", "id", "refusal", "text", "x"]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=True)
    | st.sampled_from(["function", "f", "auto", "required", "", "{}", "\ud800", "é"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=200)
@given(
    fields=st.dictionaries(
        st.sampled_from(
            [
                *("tools", "tool_choice", "parallel_tool_calls", "reasoning_effort"),
                *("chat_template_kwargs", "functions", "function_call"),
            ]
        ),
        VALUES,
        max_size=3,
    ),
    message=st.dictionaries(
        st.sampled_from(
            [
                *("content", "name", "tool_calls", "tool_call_id", "reasoning_content"),
                *("reasoning", "refusal", "function_call"),
            ]
        ),
        VALUES,
        max_size=3,
    ),
    role=st.sampled_from(["assistant", "tool", "user"]),
)
def test_whatever_is_sent_is_a_request_or_refused(fields, message, role):
    body = {"model": "m", "messages": [{"role": role} | message], **fields}
    raw = bytearray(json.dumps(body).encode())
    try:
        request = read_request(ChatRequest, raw, 1.0)
    except InvalidRequestError:
        return
    told = pb.GenerateRequest.FromString(request.prompts[0]).chat
    for sent in (told.tools, told.template_arguments, *(m.tool_calls for m in told.messages)):
        json.loads(sent or "null")

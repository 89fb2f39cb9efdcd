"""The anthropic client against a real gateway."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from functools import partial

import anthropic
import pytest

from answer_parts import call, one_a_token, reasoning, text
from gateway_doubles import (
    MODEL,
    Fleet,
    ScriptedWorker,
    eventually,
    model_view,
    running_fleet,
)
from modelfleet_gateway.options import ConnectionLimits, Options
from modelfleet_proto import worker_pb2
from raw_http import connect

HELLO = [{"role": "user", "content": "hello"}]


@contextlib.asynccontextmanager
async def anthropic_fleet(
    *workers: ScriptedWorker, **limits
) -> AsyncIterator[tuple[Fleet, anthropic.AsyncAnthropic]]:
    async with running_fleet(*workers, **limits) as fleet:
        client = anthropic.AsyncAnthropic(base_url=fleet.url, api_key="none", max_retries=0)
        async with client:
            yield fleet, client


async def test_answers_a_message():
    async with anthropic_fleet(ScriptedWorker()) as (_, client):
        message = await client.messages.create(model="tiny", max_tokens=100, messages=HELLO)
    assert message.content[0].type == "text"
    assert len(message.content[0].text.split()) == 8
    assert message.id.startswith("msg_")
    assert (message.type, message.role, message.model) == ("message", "assistant", "tiny")
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (3, 2, 8)


async def test_streams_events_in_their_order():
    async with anthropic_fleet(ScriptedWorker(tokens=3)) as (_, client):
        stream = await client.messages.create(
            model=MODEL, max_tokens=100, messages=HELLO, stream=True
        )
        events = [event async for event in stream]
        async with client.messages.stream(model=MODEL, max_tokens=100, messages=HELLO) as helped:
            final = await helped.get_final_message()
    assert [event.type for event in events] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0].message.usage.input_tokens == 5
    assert events[-2].delta.stop_reason == "end_turn"
    assert events[-2].usage.output_tokens == 3
    assert len(final.content[0].text.split()) == 3
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", 3)


async def test_every_parameter_reaches_the_worker():
    worker = ScriptedWorker(tokens=1)
    async with anthropic_fleet(worker) as (_, client):
        await client.messages.create(
            model="tiny",
            max_tokens=3,
            system=[
                {"type": "text", "text": "be kind", "cache_control": {"type": "ephemeral"}},
                {"type": "text", "text": "and short"},
            ],
            messages=[
                {"role": "user", "content": [{"type": "text", "text": "a"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "b"}]},
                {"role": "user", "content": "c"},
            ],
            stop_sequences=["x", "y"],
            metadata={"user_id": "u"},
            service_tier="auto",
            extra_body={"temperature": 0.5, "top_p": 0.25, "top_k": 4},
            extra_headers={"anthropic-version": "2099-01-01"},
        )
    (request,) = worker.requests
    assert [(m.role, m.content) for m in request.chat.messages] == [
        ("system", "be kind\nand short"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
    ]
    assert (request.stop.max_tokens, list(request.stop.strings)) == (3, ["x", "y"])
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.25, 4)


async def test_tools_and_their_history_reach_the_worker():
    worker = ScriptedWorker(tokens=1)
    async with anthropic_fleet(worker) as (_, client):
        await client.messages.create(
            model="tiny",
            max_tokens=3,
            messages=[
                {"role": "user", "content": "weather?"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": ""},
                        {"type": "text", "text": "I look"},
                        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
                        {"type": "tool_use", "id": "t2", "name": "f", "input": {}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "t1", "content": "sun"},
                        {
                            "type": "tool_result",
                            "tool_use_id": "t2",
                            "is_error": True,
                            "content": [{"type": "text", "text": "rain"}],
                        },
                        {"type": "text", "text": "and?"},
                    ],
                },
            ],
            tools=[{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
            thinking={"type": "enabled", "budget_tokens": 1024},
            output_config={"effort": "low"},
        )
    (request,) = worker.requests
    _, turn, first, second, user = request.chat.messages
    assert (turn.content, turn.reasoning_content) == ("I look", "hm")
    calls = json.loads(turn.tool_calls)
    assert [(call["id"], json.loads(call["function"]["arguments"])) for call in calls] == [
        ("t1", {"a": 1}),
        ("t2", {}),
    ]
    assert [(m.role, m.tool_call_id, m.content) for m in (first, second)] == [
        ("tool", "t1", "sun"),
        ("tool", "t2", "rain"),
    ]
    assert (user.role, user.content) == ("user", "and?")
    (tool,) = json.loads(request.chat.tools)
    assert tool["function"] == {
        "name": "f",
        "description": "d",
        "parameters": {"type": "object"},
    }
    assert request.chat.tool_choice.mode == worker_pb2.ToolChoice.REQUIRED
    assert request.chat.tool_choice.single
    assert json.loads(request.chat.template_arguments) == {
        "enable_thinking": True,
        "reasoning_effort": "low",
    }


@pytest.mark.parametrize(
    ("worker", "limit", "reason"),
    [
        (ScriptedWorker(), 2, "max_tokens"),
        (ScriptedWorker(stop_string="x"), 100, "stop_sequence"),
        (ScriptedWorker(parts=one_a_token(call(0, "f", "{}"))), 100, "tool_use"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_says_why_it_stopped(worker: ScriptedWorker, limit: int, reason: str):
    async with anthropic_fleet(worker) as (_, client):
        message = await client.messages.create(model="tiny", max_tokens=limit, messages=HELLO)
        stream = await client.messages.create(
            model="tiny", max_tokens=limit, messages=HELLO, stream=True
        )
        deltas = [event.delta async for event in stream if event.type == "message_delta"]
    for said in (message, *deltas):
        assert said.stop_reason == reason
        assert said.stop_sequence == ("x" if reason == "stop_sequence" else None)


async def test_thinking_text_and_calls_are_blocks_of_their_own():
    parts = one_a_token(
        reasoning("let me "),
        reasoning("think"),
        text("I look. "),
        call(0, "get_weather", '{"city"'),
        call(0, "", ': "Rome"}'),
        call(1, "get_weather", '{"city'),
    )
    async with anthropic_fleet(ScriptedWorker(parts=parts)) as (_, client):
        whole = await client.messages.create(model="tiny", max_tokens=100, messages=HELLO)
        async with client.messages.stream(model="tiny", max_tokens=100, messages=HELLO) as stream:
            streamed = await stream.get_final_message()
    for message in (whole, streamed):
        thought, said, first, second = message.content
        assert (thought.type, thought.thinking) == ("thinking", "let me think")
        assert (said.type, said.text) == ("text", "I look. ")
        assert (first.type, first.name, first.input) == (
            "tool_use",
            "get_weather",
            {"city": "Rome"},
        )
        assert first.id.startswith("toolu_")
        assert first.id != second.id
        assert message.stop_reason == "tool_use"
    assert whole.content[3].input == {}, "cut off"


async def test_counts_tokens_without_waking_anybody():
    worker = ScriptedWorker()
    async with anthropic_fleet(worker) as (fleet, client):
        counted = await client.messages.count_tokens(model="tiny", messages=HELLO, system="be kind")
        assert counted.input_tokens == len("system:be kind|user:hello") + 1
        arrivals = await fleet.metric("modelfleet_gateway_requests_total")
        fleet.push(model_view())
        await fleet.ready(0)
        with pytest.raises(anthropic.APIStatusError, match="none is ready") as error:
            await client.messages.count_tokens(model="tiny", messages=HELLO)
        assert error.value.status_code == 503
        assert error.value.body["error"]["type"] == "overloaded_error"
        assert not fleet.queued, "nothing waits, so nothing is woken"
        assert await fleet.metric("modelfleet_gateway_requests_total") == arrivals
    assert not worker.requests


WRONG = {
    "no max_tokens": ({"messages": HELLO}, "max_tokens"),
    "no messages": ({"max_tokens": 1}, "messages"),
    "an unknown role": ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
        "messages.0.content.0.type",
    ),
    "a prefill": ({"messages": [*HELLO, {"role": "assistant", "content": "{"}]}, "last message"),
    "a built-in tool": (
        {"messages": HELLO, "tools": [{"type": "bash_20250124", "name": "bash"}]},
        "tools.0.type",
    ),
    "a tool without a schema": (
        {"messages": HELLO, "tools": [{"name": "f"}]},
        "tools.0.input_schema",
    ),
    "a server of tools": ({"messages": HELLO, "mcp_servers": [{"url": "x"}]}, "mcp_servers"),
    "an edit of the context": (
        {"messages": HELLO, "context_management": {"edits": [{"type": "clear_tool_uses"}]}},
        "context_management",
    ),
    "a choice without a name": (
        {
            "messages": HELLO,
            "tools": [{"name": "f", "input_schema": {}}],
            "tool_choice": {"type": "tool"},
        },
        "tool_choice.name",
    ),
}


@pytest.mark.parametrize("name", WRONG)
async def test_refuses_by_name(name: str):
    body, found = WRONG[name]
    default = {} if name == "no max_tokens" else {"max_tokens": 1}
    async with running_fleet(ScriptedWorker()) as fleet:
        answer = await fleet.http.post("/v1/messages", json={"model": "tiny"} | default | body)
    assert answer.status_code == 400
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert found in answer.json()["error"]["message"]


async def test_every_error_has_anthropics_shape():
    async with running_fleet(ScriptedWorker()) as fleet:
        http = fleet.http
        body = {"model": "tiny", "max_tokens": 1, "messages": HELLO}
        answers = {
            400: await http.post("/v1/messages", content=b"{"),
            404: await http.post("/v1/messages", json=body | {"model": "none"}),
            405: await http.get("/v1/messages"),
            413: await http.post("/v1/messages", json=body | {"x": "y" * 9_000_000}),
            415: await http.post("/v1/messages", content=b"x", headers={"content-type": "a/b"}),
        }
        unknown = await http.post("/v1/messages/batches", json={})
        assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "not_found_error")
    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.json()["type"] == "error"
        assert answer.json()["error"]["message"]
        assert answer.headers["request-id"] == answer.headers["x-request-id"]
    assert answers[413].json()["error"]["type"] == "request_too_large"


async def test_a_full_queue_has_it_too_and_says_when_to_come_back():
    sleeping = ScriptedWorker(state=worker_pb2.WORKER_STATE_LOADING)
    async with anthropic_fleet(sleeping, max_queue=1) as (fleet, client):
        ask = partial(client.messages.create, model="tiny", max_tokens=1, messages=HELLO)
        first = asyncio.create_task(ask())
        await eventually(lambda: len(fleet.queued) == 1)
        with pytest.raises(anthropic.RateLimitError) as error:
            await ask()
        sleeping.become(worker_pb2.WORKER_STATE_READY)
        assert (await first).stop_reason == "max_tokens"
    assert error.value.body["error"]["type"] == "rate_limit_error"
    assert int(error.value.response.headers["retry-after"]) <= 120


async def test_a_stream_that_fails_ends_with_an_error():
    async def fail(context, request, position):
        if position == 2:
            raise KeyError("a bug of the worker")

    async with anthropic_fleet(ScriptedWorker(before_token=fail)) as (_, client):
        stream = await client.messages.create(
            model="tiny", max_tokens=100, messages=HELLO, stream=True
        )
        with pytest.raises(anthropic.APIStatusError, match="Workers failed"):
            async for _ in stream:
                pass


async def test_both_kinds_of_keys_are_accepted():
    async with running_fleet(ScriptedWorker(tokens=1)) as fleet:
        for headers in ({"x-api-key": "k"}, {"authorization": "Bearer k"}):
            answer = await fleet.http.post(
                "/v1/messages",
                json={"model": "tiny", "max_tokens": 1, "messages": HELLO},
                headers=headers,
            )
            assert answer.status_code == 200


async def test_a_body_that_does_not_come_has_its_shape():
    limits = ConnectionLimits(body_time=0.1)
    async with running_fleet(
        ScriptedWorker(), options=Options(operator="", limits=limits)
    ) as fleet:
        reader, writer = await connect(fleet.url)
        writer.write(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")
        async with asyncio.timeout(30):
            raw = await reader.read()
        writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["error"]["type"] == "invalid_request_error"

"""The official client and calls of tools, through a gateway with scripted workers."""

from __future__ import annotations

import json

import pytest

from gateway_doubles import EndEarlyError, ScriptedWorker, running_fleet
from modelfleet_proto import worker_pb2 as pb

TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]
ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "Weather?"}], "tools": TOOLS}


def call(index: int, name: str = "", arguments: str = "") -> pb.OutputPart:
    return pb.OutputPart(tool_call=pb.ToolCallPart(index=index, name=name, arguments=arguments))


PARTS = (
    (pb.OutputPart(reasoning="Hm."),),
    (),
    (call(0, "get_weather", ""),),
    (call(0, arguments='{"city": '),),
    (call(0, arguments='"Oslo"}'), call(1, "get_weather")),
    (call(1, arguments="{}"),),
)


def calling_worker(**fields) -> ScriptedWorker:
    return ScriptedWorker(parts=PARTS, tokens=len(PARTS), **fields)


async def test_the_client_reads_calls_of_a_whole_answer():
    async with running_fleet(calling_worker()) as fleet:
        answer = await fleet.client.chat.completions.create(**ASKED)
        (choice,) = answer.choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        calls = choice.message.tool_calls
        assert [(c.function.name, c.function.arguments) for c in calls] == [
            ("get_weather", '{"city": "Oslo"}'),
            ("get_weather", "{}"),
        ]
        again = [
            *ASKED["messages"],
            choice.message.model_dump(exclude_none=True),
            *({"role": "tool", "tool_call_id": c.id, "content": "Rain"} for c in calls),
        ]
        await fleet.client.chat.completions.create(**(ASKED | {"messages": again}))


async def test_the_clients_stream_helper_puts_the_calls_together():
    async with (
        running_fleet(calling_worker()) as fleet,
        fleet.client.chat.completions.stream(**ASKED) as stream,
    ):
        done = [event async for event in stream if event.type.endswith("arguments.done")]
        assert [event.arguments for event in done] == ['{"city": "Oslo"}', "{}"]
        final = await stream.get_final_completion()
        assert final.choices[0].finish_reason == "tool_calls"
        assert final.choices[0].message.reasoning_content == "Hm."


@pytest.mark.parametrize("lost_at", range(1, len(PARTS) + 1))
async def test_a_call_goes_on_after_its_worker_is_lost(lost_at):
    """Each piece comes once, and ids stay: another worker sends only what is new."""

    async def end_early(_context, request, position):
        if position == lost_at and not request.HasField("resume"):
            raise EndEarlyError

    first, second = (calling_worker(worker_id=w, before_token=end_early) for w in ("w-0", "w-1"))
    async with running_fleet(first, second) as fleet:
        stream = await fleet.client.chat.completions.create(**ASKED, seed=1, stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
        assert any(r.HasField("resume") for w in (first, second) for r in w.requests)
    calls = [delta for chunk in chunks for delta in chunk.delta.tool_calls or ()]
    assert len({delta.id for delta in calls if delta.id}) == 2
    assert [(delta.index, delta.function.arguments) for delta in calls] == [
        *((0, ""), (0, '{"city": '), (0, '"Oslo"}')),
        *((1, ""), (1, "{}")),
    ]
    assert chunks[-1].finish_reason == "tool_calls"


async def test_streams_are_json_without_what_was_not_asked():
    async with (
        running_fleet(calling_worker()) as fleet,
        fleet.http.stream("POST", "/v1/chat/completions", json=ASKED | {"stream": True}) as answer,
    ):
        lines = [line async for line in answer.aiter_lines() if line.startswith("data: {")]
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines]
    assert deltas[:2] == [{"role": "assistant", "content": ""}, {"reasoning_content": "Hm."}]
    assert deltas[-1] == {}

"""A request goes only to workers that can do what it needs, and holds up no other."""

import asyncio

import grpc
import openai
import pytest

from gateway_doubles import MODEL, ScriptedWorker, eventually, expected_text, running_fleet
from modelfleet_proto.refusals import FORMAT_FAILED, refusal_metadata

JSON = {"response_format": {"type": "json_object"}}


def old(number: int = 0, **fields) -> ScriptedWorker:
    """A worker of the version before: it would answer as if no format had been asked for."""
    return ScriptedWorker(worker_id=f"w-{number}", features=(), **fields)


async def ask(fleet, prompt: str, **fields) -> str:
    answer = await fleet.client.completions.create(
        model="tiny", prompt=prompt, seed=7, extra_body=fields
    )
    return answer.choices[0].text


async def test_a_format_is_asked_only_of_workers_that_have_it():
    before, after = old(0), ScriptedWorker(worker_id="w-1")
    async with running_fleet(before, after) as fleet:
        prompts = [f"p{number}" for number in range(6)]
        answers = await asyncio.gather(*(ask(fleet, prompt, **JSON) for prompt in prompts))
        assert answers == [expected_text(prompt, 8) for prompt in prompts]
        assert len(after.requests) == 6
        assert all(request.output_format.json_object for request in after.requests)
        await ask(fleet, "plain")
    assert not any(request.HasField("output_format") for request in before.requests)


async def test_without_such_a_worker_it_waits_and_others_pass():
    worker = old()
    async with running_fleet(worker, hold_timeout=1.0) as fleet:
        waiting = [asyncio.create_task(ask(fleet, f"json {i}", **JSON)) for i in range(3)]
        await eventually(lambda: len(fleet.queued) == 3)
        assert await ask(fleet, "plain") == expected_text("plain", 8)
        for one in waiting:
            with pytest.raises(openai.APIStatusError, match="without output_format") as error:
                await one
            assert error.value.status_code == 503
    assert [request.prompt for request in worker.requests] == ["plain"]


async def test_it_is_served_as_soon_as_a_worker_of_this_version_is_there():
    worker = old()
    async with running_fleet(worker) as fleet:
        waiting = asyncio.create_task(ask(fleet, "json", **JSON))
        await eventually(lambda: len(fleet.queued) == 1)
        worker.features = ("output_format",)
        assert await waiting == expected_text("json", 8)


async def test_a_stream_is_not_continued_where_its_format_would_be_forgotten():
    async def fail(context, request, position):
        if position == 3 and not request.HasField("resume"):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    first, second = ScriptedWorker(before_token=fail), old(1)
    async with running_fleet(first, second) as fleet:
        queue = fleet.gateway.dispatcher.queues[MODEL]
        await eventually(lambda: queue.ready_workers == 2)
        assert await ask(fleet, "json", **JSON) == expected_text("json", 8)
    assert len(first.requests) == 2
    assert not second.requests


async def test_a_format_that_fails_while_it_is_followed_is_tried_nowhere_else():
    async def fail(context, request, position):
        if position == 3:
            await context.abort(
                grpc.StatusCode.ABORTED, "the format failed", refusal_metadata(FORMAT_FAILED)
            )

    workers = [ScriptedWorker(worker_id=f"w-{i}", before_token=fail) for i in range(2)]
    async with running_fleet(*workers) as fleet:
        with pytest.raises(openai.BadRequestError, match="the format failed"):
            await ask(fleet, "json", **JSON)
    assert sum(len(worker.requests) for worker in workers) == 1

"""Streams that wait for a worker which may continue them."""

import asyncio

import openai
import pytest

from gateway_doubles import (
    MODEL,
    ScriptedWorker,
    eventually,
    expected_text,
    model_view,
    running_fleet,
)
from gateway_streams import ask, hand_over, undisturbed
from modelfleet_proto import worker_pb2

DRAINING = worker_pb2.WORKER_STATE_DRAINING
READY = worker_pb2.WORKER_STATE_READY


async def test_a_stream_waits_for_a_worker_of_the_same_digest():
    first = ScriptedWorker("w-0", before_token=hand_over)
    other = ScriptedWorker("w-1", digest="digest-2", state=worker_pb2.WORKER_STATE_LOADING)
    async with running_fleet(first, other) as fleet:
        asked = asyncio.create_task(ask(fleet))
        await eventually(lambda: len(first.requests) == 1)
        first.become(DRAINING)
        other.become(READY)
        await fleet.ready(1)
        await eventually(lambda: len(fleet.queued) == 1)
        assert await ask(fleet, "new") == expected_text("new", 8), "new requests pass it by"
        assert not asked.done()

        twin = ScriptedWorker("w-2")
        await twin.start()
        fleet.push(model_view(other, twin))
        assert await asked == expected_text("p", 8)
        await undisturbed(fleet)
        await twin.kill()
    assert len(twin.requests[0].resume.token_ids) == 3
    assert all(not request.HasField("resume") for request in other.requests)


async def test_a_stream_whose_revision_was_replaced_ends_with_an_error():
    first = ScriptedWorker("w-0", before_token=hand_over)
    other = ScriptedWorker("w-1", digest="digest-2", state=worker_pb2.WORKER_STATE_LOADING)
    async with running_fleet(first, other) as fleet:
        asked = asyncio.create_task(ask(fleet))
        await eventually(lambda: len(first.requests) == 1)
        first.become(DRAINING)
        fleet.push(model_view(other))
        await eventually(lambda: len(fleet.queued) == 1)
        assert not asked.done(), "the loading worker may have its digest"
        other.become(READY)
        with pytest.raises(openai.APIError, match="replaced by another revision"):
            await asked


def awaited(fleet) -> list[str]:
    """What the gateway told the operator last."""
    models = fleet.operator.signals[-1].models
    return list(models[0].awaited_revisions) if models else []


async def test_a_stream_whose_revision_can_be_started_again_is_held_for_it():
    first = ScriptedWorker("w-0", before_token=hand_over)
    new = ScriptedWorker("w-1", digest="digest-2", revision="r2")
    again = ScriptedWorker("w-2", state=worker_pb2.WORKER_STATE_LOADING)
    await again.start()
    async with running_fleet(first) as fleet:
        await new.start()
        asked = asyncio.create_task(ask(fleet))
        await eventually(lambda: len(first.requests) == 1)
        first.become(DRAINING)
        fleet.push(model_view(new, revisions=("r1", "r2")))
        await fleet.ready(1)
        await eventually(lambda: awaited(fleet) == ["r1"])
        assert await ask(fleet, "new") == expected_text("new", 8), "others do not wait for it"
        assert not asked.done()
        fleet.push(model_view(new, again, revisions=("r1", "r2")))
        await eventually(lambda: awaited(fleet) == ["r1"], within=5)
        again.become(READY)
        assert await asked == expected_text("p", 8)
        await eventually(lambda: awaited(fleet) == [])
        await undisturbed(fleet)
    await asyncio.gather(new.kill(), again.kill())


async def test_a_draining_worker_of_its_revision_is_asked_back_for_a_stream():
    first = ScriptedWorker("w-0", before_token=hand_over)
    twin = ScriptedWorker("w-1", routable=False)
    async with running_fleet(first) as fleet:
        await twin.start()
        asked = asyncio.create_task(ask(fleet))
        await eventually(lambda: len(first.requests) == 1)
        first.become(DRAINING)
        fleet.push(model_view(twin))
        await eventually(lambda: awaited(fleet) == ["r1"])
        assert not asked.done()
        twin.routable = True
        fleet.push(model_view(twin))
        assert await asked == expected_text("p", 8)
    await twin.kill()


async def test_a_stream_whose_revision_became_another_model_ends_with_an_error():
    first = ScriptedWorker("w-0", before_token=hand_over)
    moved = ScriptedWorker("w-1", digest="digest-2")
    async with running_fleet(first) as fleet:
        await moved.start()
        asked = asyncio.create_task(ask(fleet))
        await eventually(lambda: len(first.requests) == 1)
        first.become(DRAINING)
        fleet.push(model_view(moved, revisions=("r1",)))
        with pytest.raises(openai.APIError, match="replaced by another revision"):
            await asked
    await moved.kill()


async def test_a_stream_to_resume_is_held_beyond_the_hold_timeout():
    first = ScriptedWorker("w-0", before_token=hand_over)
    async with running_fleet(first, hold_timeout=0.2) as fleet:
        asked = asyncio.create_task(ask(fleet))
        await eventually(lambda: first.requests)
        first.become(DRAINING)
        await eventually(lambda: len(fleet.queued) == 1)
        with pytest.raises(openai.InternalServerError, match="w"):
            await ask(fleet, "too late")
        assert not asked.done()
        first.before_token = None
        first.become(READY)
        assert await asked == expected_text("p", 8)


async def test_a_deleted_model_ends_the_streams_that_wait_for_it():
    worker = ScriptedWorker(before_token=hand_over)
    async with running_fleet(worker) as fleet:
        asked = asyncio.create_task(ask(fleet))
        await eventually(lambda: worker.requests)
        worker.become(DRAINING)
        await eventually(lambda: len(fleet.queued) == 1)
        waiting = asyncio.create_task(ask(fleet, "new"))
        await eventually(lambda: len(fleet.queued) == 2)
        fleet.push(model_view(model="default/other", served=()))
        with pytest.raises(openai.APIError, match="was deleted"):
            await asked
        with pytest.raises(openai.NotFoundError, match="was deleted"):
            await waiting
        assert MODEL not in fleet.gateway.dispatcher.queues


async def test_a_stream_that_waits_for_another_worker_keeps_its_connection_awake(monkeypatch):
    monkeypatch.setattr("modelfleet_gateway.http.exchange.QUIET", 0.1)
    first = ScriptedWorker("w-0", before_token=hand_over, pace=0.001)
    twin = ScriptedWorker("w-1")
    lines: list[str] = []

    async def listen(fleet) -> None:
        body = {"model": "tiny", "prompt": "p", "seed": 7, "stream": True}
        async with fleet.http.stream("POST", "/v1/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                lines.append(line)  # noqa: PERF401 - the test reads it while it grows

    async with running_fleet(first) as fleet:
        await twin.start()
        heard = asyncio.create_task(listen(fleet))
        await eventually(lambda: first.requests)
        first.become(DRAINING)
        await eventually(lambda: lines.count(": keep-alive") >= 2)
        fleet.push(model_view(twin))
        await heard
        await twin.kill()
    tokens = [line for line in lines if line.startswith("data: {")]
    assert len(tokens) >= 8, "nothing is missing of the answer"
    assert lines[-2] == "data: [DONE]"
    assert lines.index(tokens[2]) < lines.index(": keep-alive") < lines.index(tokens[-1])

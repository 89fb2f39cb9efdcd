"""Workers exit, drain, stop and break the protocol; the client sees one right stream."""

import asyncio

import grpc
import openai
import pytest
import structlog

from gateway_doubles import (
    MODEL,
    EndEarlyError,
    ScriptedWorker,
    eventually,
    expected_text,
    model_view,
    running_fleet,
)
from modelfleet_gateway.routing import workers as gateway_workers
from modelfleet_proto import worker_pb2

DRAINING = worker_pb2.WORKER_STATE_DRAINING
FAILED = worker_pb2.WORKER_STATE_FAILED
READY = worker_pb2.WORKER_STATE_READY


async def hand_over(context, request, position):
    """Once, in mid-stream, as a drain does."""
    if position == 3:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "draining: resume it elsewhere")


async def ask(fleet, prompt: str = "p", *, stream: bool = True) -> str:
    """The whole text of a plain completion."""
    if not stream:
        answer = await fleet.client.completions.create(
            model="tiny", prompt=prompt, seed=7, max_tokens=100
        )
        return answer.choices[0].text
    chunks = await fleet.client.completions.create(
        model="tiny", prompt=prompt, seed=7, max_tokens=100, stream=True
    )
    return "".join([chunk.choices[0].text async for chunk in chunks])


async def undisturbed(fleet) -> None:
    """Nothing was refused and nothing lost."""
    assert await fleet.metric("modelfleet_gateway_refusals_total") == 0
    assert await fleet.metric("modelfleet_gateway_lost_total") == 0


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_stream_that_is_handed_over_goes_on_elsewhere(stream):
    first = ScriptedWorker("w-0", before_token=hand_over)
    second = ScriptedWorker("w-1")
    async with running_fleet(first, second) as fleet:
        assert await ask(fleet, stream=stream) == expected_text("p", 8)
        await undisturbed(fleet)
        assert await fleet.metric("modelfleet_gateway_resumed_total") == 1
    (resumed,) = second.requests
    assert len(resumed.resume.token_ids) == 3
    assert resumed.resume.model_digest == "digest-1"
    assert (resumed.seed, resumed.created) == (first.requests[0].seed, first.requests[0].created)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_killed_worker_costs_none_of_its_8_streams(stream):
    workers = [ScriptedWorker(f"w-{i}", tokens=30, pace=0.01, slots=8) for i in range(2)]
    async with running_fleet(*workers) as fleet:
        asked = [asyncio.create_task(ask(fleet, f"p{i}", stream=stream)) for i in range(8)]
        await eventually(lambda: workers[0].running + workers[1].running == 8)
        meter = fleet.gateway.dispatcher.queues[MODEL].meter
        await eventually(lambda: meter.completion_tokens > 40)
        await workers[0].kill()
        assert await asyncio.gather(*asked) == [expected_text(f"p{i}", 30) for i in range(8)]
        await undisturbed(fleet)
        assert await fleet.metric("modelfleet_gateway_resumed_total") == 4


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.FAILED_PRECONDITION,
    ],
)
async def test_a_worker_that_turns_a_request_away_is_not_the_end(code):
    async def turn_away(context, request, position):
        await context.abort(code, "not here")

    first = ScriptedWorker("w-0", before_accept=turn_away)
    second = ScriptedWorker("w-1")
    async with running_fleet(first, second) as fleet:
        assert await ask(fleet) == expected_text("p", 8)
        await undisturbed(fleet)
    assert len(first.requests) == 1


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


async def test_a_stopped_worker_loses_its_streams_to_another(monkeypatch):
    monkeypatch.setattr(gateway_workers, "STATS_TIMEOUT", 0.5)
    first, second = (ScriptedWorker(f"w-{i}", tokens=20, pace=0.01) for i in range(2))
    async with running_fleet(first, second) as fleet:
        asked = [asyncio.create_task(ask(fleet, f"p{i}")) for i in range(4)]
        await eventually(lambda: first.running == 2)
        first.stopped = True
        assert await asyncio.gather(*asked) == [expected_text(f"p{i}", 20) for i in range(4)]
        await eventually(lambda: len(first.cancelled) == 2)
        await undisturbed(fleet)

        first.stopped = False
        await fleet.ready(2)


async def test_a_failed_engine_loses_its_streams_to_another():
    async def stall(context, request, position):
        if position == 2:
            await asyncio.sleep(60)

    first = ScriptedWorker("w-0", before_token=stall)
    second = ScriptedWorker("w-1", state=worker_pb2.WORKER_STATE_LOADING)
    async with running_fleet(first, second) as fleet:
        asked = asyncio.create_task(ask(fleet))
        await eventually(lambda: first.running)
        second.become(READY)
        first.become(FAILED)
        assert await asked == expected_text("p", 8)
        await undisturbed(fleet)


async def test_a_draining_worker_keeps_its_streams():
    worker = ScriptedWorker(tokens=20, pace=0.01)
    async with running_fleet(worker) as fleet:
        asked = asyncio.create_task(ask(fleet))
        await eventually(lambda: worker.running)
        worker.become(DRAINING)
        await fleet.ready(0)
        fleet.push(model_view())  # it leaves the view while it drains
        assert await asked == expected_text("p", 20)
    assert len(worker.requests) == 1


async def test_a_request_that_kills_every_worker_ends_with_the_last_error():
    async def break_down(context, request, position):
        if "poison" in request.prompt and position == 2:
            await context.abort(grpc.StatusCode.INTERNAL, "illegal memory access")

    workers = [ScriptedWorker(f"w-{i}", before_token=break_down) for i in range(2)]
    async with running_fleet(*workers) as fleet:
        with pytest.raises(openai.APIError, match="illegal memory access"):
            await ask(fleet, "poison")
        with pytest.raises(openai.InternalServerError) as whole:
            await ask(fleet, "poison", stream=False)
        assert whole.value.status_code == 502
        assert sum(len(worker.requests) for worker in workers) == 10
        assert await fleet.metric("modelfleet_gateway_lost_total") == 2
        assert await ask(fleet) == expected_text("p", 8)


async def test_a_worker_that_ends_without_saying_so_is_resumed():
    async def vanish(context, request, position):
        if position == 4:
            raise EndEarlyError

    first = ScriptedWorker("w-0", before_token=vanish)
    async with running_fleet(first, ScriptedWorker("w-1")) as fleet:
        assert await ask(fleet) == expected_text("p", 8)
        await undisturbed(fleet)


async def test_a_full_worker_sends_the_request_back_to_the_head_of_the_queue():
    taken = 2

    async def others_were_faster(context, request, position):
        nonlocal taken
        if taken:
            taken -= 1
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "all slots are taken")

    worker = ScriptedWorker(slots=1, before_accept=others_were_faster)
    async with running_fleet(worker) as fleet:
        asked = [asyncio.create_task(ask(fleet, f"p{i}")) for i in range(3)]
        assert await asyncio.gather(*asked) == [expected_text(f"p{i}", 8) for i in range(3)]
        await undisturbed(fleet)
    assert [request.prompt for request in worker.requests] == ["p0", "p0", "p0", "p1", "p2"]


async def test_a_worker_that_other_gateways_filled_is_left_alone():
    busy, free = ScriptedWorker("w-0", slots=2, running=2), ScriptedWorker("w-1", slots=2)
    async with running_fleet(busy, free) as fleet:
        for number in range(3):
            assert await ask(fleet, f"p{number}") == expected_text(f"p{number}", 8)
    assert busy.requests == []


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


async def test_a_worker_that_dies_between_the_last_token_and_the_end_loses_nothing():
    async def die_late(context, request, position):
        if position == 8:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    first = ScriptedWorker("w-0", before_token=die_late)
    second = ScriptedWorker("w-1")
    async with running_fleet(first, second) as fleet:
        assert await ask(fleet) == expected_text("p", 8)
        await undisturbed(fleet)
    assert len(second.requests[0].resume.token_ids) == 8


async def test_a_worker_of_another_version_gets_nothing_and_the_log_says_why():
    old, good = (
        ScriptedWorker("w-0", refusal="worker/9.0.0 and gateway/0.1.0"),
        ScriptedWorker("w-1"),
    )
    old.state = worker_pb2.WORKER_STATE_LOADING  # it is not counted as ready
    with structlog.testing.capture_logs() as lines:
        async with running_fleet(old, good) as fleet:
            assert await ask(fleet) == expected_text("p", 8)
            await eventually(lambda: any("worker/9.0.0" in str(line) for line in lines))
    assert not old.requests


async def test_a_worker_that_breaks_the_protocol_is_not_used():
    liar = ScriptedWorker("w-0", digest="")  # its streams could not be resumed
    async with running_fleet(liar, ScriptedWorker("w-1")) as fleet:
        assert await ask(fleet) == expected_text("p", 8)
        await undisturbed(fleet)

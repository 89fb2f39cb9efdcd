"""Workers exit, drain, stop and fail; the client sees one right stream."""

import asyncio

import grpc
import pytest

from gateway_doubles import (
    MODEL,
    EndEarlyError,
    ScriptedWorker,
    api_key,
    eventually,
    expected_text,
    model_view,
    running_fleet,
)
from gateway_streams import ask, hand_over, undisturbed
from modelfleet_gateway.routing import workers as gateway_workers
from modelfleet_proto import fleet_pb2, worker_pb2

DRAINING = worker_pb2.WORKER_STATE_DRAINING
FAILED = worker_pb2.WORKER_STATE_FAILED
READY = worker_pb2.WORKER_STATE_READY


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_stream_that_is_handed_over_goes_on_elsewhere(stream):
    first = ScriptedWorker("w-0", before_token=hand_over)
    second = ScriptedWorker("w-1")
    mine = fleet_pb2.ApiKeys(keys=[api_key("none", tenant="team-a")])
    async with running_fleet(first, second, keys=mine) as fleet:  # its clients send this key
        assert await ask(fleet, stream=stream) == expected_text("p", 8)
        await undisturbed(fleet)
        assert await fleet.metric("modelfleet_gateway_resumed_total") == 1
    (resumed,) = second.requests
    assert len(resumed.resume.token_ids) == 3
    assert resumed.resume.model_digest == "digest-1"
    assert (resumed.seed, resumed.created) == (first.requests[0].seed, first.requests[0].created)
    assert resumed.cache_salt == first.requests[0].cache_salt == "team-a"


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


async def test_a_worker_that_ends_without_saying_so_is_resumed():
    async def vanish(context, request, position):
        if position == 4:
            raise EndEarlyError

    first = ScriptedWorker("w-0", before_token=vanish)
    async with running_fleet(first, ScriptedWorker("w-1")) as fleet:
        assert await ask(fleet) == expected_text("p", 8)
        await undisturbed(fleet)


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

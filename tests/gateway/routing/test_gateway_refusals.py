"""Workers that take no request: full ones, wrong ones, and what they say about it."""

import asyncio

import grpc
import openai
import pytest
import structlog

from gateway_doubles import ScriptedWorker, eventually, expected_text, refuse_as_full, running_fleet
from gateway_streams import ask, undisturbed
from modelfleet_proto import worker_pb2

READY = worker_pb2.WORKER_STATE_READY
LONG = "The prompt is wrong: " + "x" * 20_000


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


async def test_a_full_worker_sends_the_request_back_to_the_head_of_the_queue():
    taken = 2

    async def others_were_faster(context, request, position):
        nonlocal taken
        if taken:
            taken -= 1
            await refuse_as_full(context)

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


@pytest.mark.parametrize("details", [LONG, "ä" * 4_000, "all 8 slots are taken" + LONG])
async def test_a_refusal_of_any_length_reaches_the_client_as_it_is_and_once(details):
    """Of a worker that does not mark its refusals, and does not cut them, either."""

    async def refuse(context, request, position):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, details)

    worker = ScriptedWorker(before_accept=refuse)
    async with running_fleet(worker) as fleet:
        async with asyncio.timeout(10):
            with pytest.raises(openai.BadRequestError) as refused:
                await ask(fleet)
        assert refused.value.body["message"].startswith(details[:500])
        assert len(refused.value.body["message"]) < 2_000
    assert len(worker.requests) == 1


async def test_a_refusal_that_grpc_cannot_carry_is_not_taken_for_a_full_worker():
    async def refuse(context, request, position):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "x" * 5_000_000)

    worker = ScriptedWorker(before_accept=refuse, takes_many=False)
    async with running_fleet(worker) as fleet:
        async with asyncio.timeout(10):
            with pytest.raises(openai.BadRequestError, match="too large to pass on"):
                await ask(fleet)
    assert len(worker.requests) == 1


async def test_an_older_worker_that_is_full_says_so_without_a_mark():
    refused = 0

    async def refuse_once(context, request, position):
        nonlocal refused
        refused += 1
        if refused == 1:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "all 8 slots are taken")

    async with running_fleet(ScriptedWorker(before_accept=refuse_once)) as fleet:
        assert await ask(fleet) == expected_text("p", 8)
    assert refused == 2


async def test_a_worker_whose_model_changes_behind_the_operators_back_gets_nothing():
    altered, good = ScriptedWorker("w-0"), ScriptedWorker("w-1")
    async with running_fleet(altered, good) as fleet:
        altered.digest = "digest-2"
        assert await ask(fleet) == expected_text("p", 8), "its Stats do not say so yet"
        altered.become(READY)
        await fleet.ready(1)
        for number in range(4):
            assert await ask(fleet, f"p{number}") == expected_text(f"p{number}", 8)
        await undisturbed(fleet)
    assert len(altered.requests) == 1
    assert len(good.requests) == 5

"""Streams move off a worker that is about to go, each as soon as another one has a slot for it."""

from __future__ import annotations

import asyncio

import pytest

from gateway_doubles import (
    MODEL,
    Fleet,
    ScriptedWorker,
    eventually,
    expected_text,
    model_view,
    running_fleet,
)
from gateway_streams import ask, undisturbed
from modelfleet_proto import worker_pb2

READY, LOADING = worker_pb2.WORKER_STATE_READY, worker_pb2.WORKER_STATE_LOADING
TOKENS = 100  # what `ask` asks for


def pair(slots: int, elsewhere: int) -> tuple[ScriptedWorker, ScriptedWorker]:
    """One that is about to go, and one that is ready later."""
    going = ScriptedWorker("w-0", slots=slots, tokens=TOKENS, pace=0.01)
    other = ScriptedWorker("w-1", slots=elsewhere, tokens=TOKENS, pace=0.01, state=LOADING)
    return going, other


def tell_to_go(fleet: Fleet, going: ScriptedWorker, *others: ScriptedWorker) -> None:
    going.routable, going.hand_over = False, True
    fleet.push(model_view(going, *others))


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_every_stream_of_it_goes_on_elsewhere_to_the_token(stream: bool):
    going, other = pair(16, 32)
    async with running_fleet(going, other) as fleet:
        asked = [asyncio.create_task(ask(fleet, f"p{n}", stream=stream)) for n in range(16)]
        await eventually(lambda: going.running == 16)
        other.become(READY)
        await fleet.ready(2)
        tell_to_go(fleet, going, other)
        await eventually(lambda: going.running == 0)
        assert await asyncio.gather(*asked) == [expected_text(f"p{n}", TOKENS) for n in range(16)]
        await undisturbed(fleet)
        assert len(other.requests) == 16, "short streams are computed once"
        assert await fleet.metric("modelfleet_gateway_resumed_total") == 16


async def test_what_finds_no_slot_runs_on_where_it_is_until_there_is_one():
    going, other = pair(8, 3)
    async with running_fleet(going, other) as fleet:
        asked = [asyncio.create_task(ask(fleet, f"p{n}")) for n in range(8)]
        await eventually(lambda: going.running == 8)
        tell_to_go(fleet, going, other)
        other.become(READY)
        await eventually(lambda: (going.running, other.running) == (5, 3))
        assert not fleet.queued, "no stream waits for a slot"
        assert await asyncio.gather(*asked) == [expected_text(f"p{n}", TOKENS) for n in range(8)]
        assert len(going.requests) == 8, "nothing went back to it"


async def test_without_another_worker_it_keeps_them():
    going, other = pair(4, 4)
    async with running_fleet(going, other) as fleet:
        asked = [asyncio.create_task(ask(fleet, f"p{n}")) for n in range(4)]
        await eventually(lambda: going.running == 4)
        tell_to_go(fleet, going, other)
        assert await asyncio.gather(*asked) == [expected_text(f"p{n}", TOKENS) for n in range(4)]
        assert going.cancelled == []
        assert other.requests == []


async def test_a_request_without_a_token_is_moved_and_not_charged():
    going, other = pair(4, 4)
    going.pace = 30.0
    async with running_fleet(going, other) as fleet:
        asked = [asyncio.create_task(ask(fleet, f"p{n}")) for n in range(2)]
        await eventually(lambda: going.running == 2)
        tell_to_go(fleet, going, other)
        other.become(READY)
        assert await asyncio.gather(*asked) == [expected_text(f"p{n}", TOKENS) for n in range(2)]
        assert fleet.gateway.dispatcher.queues[MODEL].workers["w-0"].reachable, "not suspect"


async def test_a_worker_that_holds_another_model_gets_none_of_them():
    going, other = pair(4, 4)
    other.digest = "digest-2"
    async with running_fleet(going, other, revisions=("r1",)) as fleet:
        asked = asyncio.create_task(ask(fleet))
        await eventually(lambda: going.running == 1)
        tell_to_go(fleet, going, other)
        other.become(READY)
        assert await asked == expected_text("p", TOKENS)
        assert other.requests == []

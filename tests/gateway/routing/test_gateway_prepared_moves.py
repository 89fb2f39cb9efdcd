"""A long stream goes on where it is until the worker that it moves to has computed it so far."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import openai

from gateway_doubles import (
    MODEL,
    Fleet,
    ScriptedWorker,
    eventually,
    expected_text,
    model_view,
    refuse_as_full,
    running_fleet,
)
from gateway_streams import ask, undisturbed
from modelfleet_gateway.routing.hand_over import SHORT
from modelfleet_gateway.routing.workers import PREPARED_AT_ONCE
from modelfleet_proto import worker_pb2
from scripted_worker import Fault

TOKENS = 100  # what `ask` asks for


@dataclass
class Move:
    """A stream on a worker that is about to go, whose next one prepares until `done` is set."""

    fleet: Fleet
    going: ScriptedWorker
    following: ScriptedWorker
    asked: asyncio.Task[str]
    done: asyncio.Event

    @property
    def prepares(self) -> list[worker_pb2.GenerateRequest]:
        return [r for r in self.following.requests if r.resume.prepares]

    @property
    def resumed(self) -> list[worker_pb2.GenerateRequest]:
        return [r for r in self.following.requests if not r.resume.prepares]


@contextlib.asynccontextmanager
async def moving(before_accept: Fault | None = None, after: int = 5) -> AsyncIterator[Move]:
    """The worker is told to go after so many tokens, and waits until the next one prepares."""
    done, started, may_go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def prepare(context, request, position):
        if request.resume.prepares:
            await done.wait()

    async def note_token(context, request, position):
        if position == after:
            started.set()
            await may_go_on.wait()

    going = ScriptedWorker(
        "w-0", tokens=TOKENS, pace=0.01, before_token=note_token, prompt_tokens=SHORT
    )
    following = ScriptedWorker(
        "w-1",
        tokens=TOKENS,
        pace=0.01,
        before_accept=before_accept,
        before_token=prepare,
        state=worker_pb2.WORKER_STATE_LOADING,
    )
    async with running_fleet(going, following) as fleet:
        asked = asyncio.create_task(ask(fleet))
        await started.wait()
        following.become(worker_pb2.WORKER_STATE_READY)
        await fleet.ready(2)
        going.routable, going.hand_over = False, True
        fleet.push(model_view(going, following))
        move = Move(fleet, going, following, asked, done)
        await eventually(lambda: move.prepares)
        may_go_on.set()
        yield move


def counted(fleet: Fleet) -> int:
    """Choices that run, as the operator is told."""
    return fleet.gateway.dispatcher.queues[MODEL].running


def tokens(fleet: Fleet) -> int:
    """That clients got."""
    return fleet.gateway.dispatcher.queues[MODEL].meter.completion_tokens


async def test_it_moves_when_its_tokens_are_computed_there_and_not_before():
    async with moving() as move:
        (prepares,) = move.prepares
        at = len(prepares.resume.token_ids)
        assert prepares.stop.max_tokens == at + 1
        assert (move.going.running, counted(move.fleet)) == (1, 1), "it goes on and counts once"
        await eventually(lambda: tokens(move.fleet) > at + 2)
        move.done.set()
        assert await move.asked == expected_text("p", TOKENS)
        (resumed,) = move.resumed
        assert len(resumed.resume.token_ids) > at + 2, "with the tokens that came meanwhile"
        assert await move.fleet.metric("modelfleet_gateway_resumed_total") == 1
        await undisturbed(move.fleet)
        await eventually(lambda: counted(move.fleet) == 0)


async def test_an_answer_that_ends_meanwhile_stays():
    async with moving(after=TOKENS - 2) as move:
        assert await move.asked == expected_text("p", TOKENS)
        await eventually(lambda: move.following.running == 0)
        assert move.resumed == []
        assert await move.fleet.metric("modelfleet_gateway_resumed_total") == 0


async def test_a_worker_that_goes_before_that_is_followed_at_once():
    async with moving() as move:
        await move.going.kill()
        assert await move.asked == expected_text("p", TOKENS)
        assert len(move.resumed) == 1
        await undisturbed(move.fleet)


async def test_where_the_next_worker_fails_it_stays_and_moves_later():
    async with moving() as move:
        following = move.following

        async def fail(context, request, position):
            if request.resume.prepares:
                await context.abort(grpc.StatusCode.INTERNAL, "a bug")

        following.before_token = fail
        move.done.set()
        assert await move.asked == expected_text("p", TOKENS)
        await undisturbed(move.fleet)
        await eventually(lambda: counted(move.fleet) == 0)


async def test_where_the_next_worker_is_full_it_stays():
    async def refuse(context, request, position):
        await refuse_as_full(context)

    async with moving(refuse) as move:
        assert await move.asked == expected_text("p", TOKENS)
        assert move.going.cancelled == [], "it had all of its tokens from the first one"
        assert move.resumed == []
        await undisturbed(move.fleet)


async def test_the_next_worker_is_killed_meanwhile():
    async with moving() as move:
        await eventually(lambda: move.following.running == 1)
        await move.following.kill()
        assert await move.asked == expected_text("p", TOKENS)
        assert move.going.cancelled == []
        await undisturbed(move.fleet)


async def test_a_client_that_leaves_meanwhile_leaves_no_slot_taken():
    async with moving() as move:
        move.asked.cancel()
        with contextlib.suppress(asyncio.CancelledError, openai.APIError):
            await move.asked
        await eventually(lambda: (move.going.running, move.following.running) == (0, 0))
        workers = move.fleet.gateway.dispatcher.queues[MODEL].workers.values()
        await eventually(lambda: [w.running for w in workers] == [0, 0])
        assert [w.preparing for w in workers] == [0, 0]


async def test_of_many_streams_a_few_are_prepared_at_once():
    done, preparing, most = asyncio.Event(), 0, 0

    async def prepare(context, request, position):
        nonlocal preparing, most
        if request.resume.prepares:
            preparing += 1
            most = max(most, preparing)
            try:
                await done.wait()
            finally:
                preparing -= 1

    going = ScriptedWorker("w-0", slots=16, tokens=TOKENS, pace=0.01, prompt_tokens=SHORT)
    following = ScriptedWorker("w-1", slots=16, tokens=TOKENS, pace=0.01, before_token=prepare)
    following.state = worker_pb2.WORKER_STATE_LOADING
    async with running_fleet(going, following) as fleet:
        asked = [asyncio.create_task(ask(fleet, f"p{n}")) for n in range(16)]
        await eventually(lambda: tokens(fleet) > 32)
        following.become(worker_pb2.WORKER_STATE_READY)
        await fleet.ready(2)
        going.routable, going.hand_over = False, True
        fleet.push(model_view(going, following))
        await eventually(lambda: following.running == PREPARED_AT_ONCE)
        assert going.running == 16
        done.set()
        assert await asyncio.gather(*asked) == [expected_text(f"p{n}", TOKENS) for n in range(16)]
        await undisturbed(fleet)
    assert most == PREPARED_AT_ONCE

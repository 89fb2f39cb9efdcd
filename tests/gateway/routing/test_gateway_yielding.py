"""Batch streams make room for interactive requests, and lose no token by it."""

from __future__ import annotations

import asyncio

from gateway_doubles import MODEL, Fleet, ScriptedWorker, eventually, expected_text, running_fleet
from gateway_streams import undisturbed
from modelfleet_gateway.routing.queue import ModelQueue

TOKENS = 60
FLEX = {"service_tier": "flex"}


async def ask(fleet: Fleet, prompt: str, *, tokens: int = TOKENS, **extra) -> str:
    chunks = await fleet.client.completions.create(
        model="tiny", prompt=prompt, seed=7, max_tokens=tokens, stream=True, extra_body=extra
    )
    return "".join([chunk.choices[0].text async for chunk in chunks])


def queue_of(fleet: Fleet, *, reserved: float = 0.1) -> ModelQueue:
    queue = fleet.gateway.dispatcher.queues[MODEL]
    queue._reserve.seconds = reserved
    return queue


async def yielded(fleet: Fleet) -> float:
    return await fleet.metric("modelfleet_gateway_yielded_total")


async def test_an_interactive_request_has_the_slot_of_a_batch_stream_which_goes_on_later():
    worker = ScriptedWorker(slots=1, tokens=TOKENS, pace=0.01)
    async with running_fleet(worker) as fleet:
        queue_of(fleet)
        batch = asyncio.create_task(ask(fleet, "batch", **FLEX))
        await eventually(lambda: queue_of(fleet).meter.completion_tokens > 5)
        assert await ask(fleet, "now", tokens=5) == expected_text("now", 5)
        assert not batch.done()
        assert await batch == expected_text("batch", TOKENS)
        await undisturbed(fleet)
        assert await yielded(fleet) == 1
        assert await fleet.metric("modelfleet_gateway_resumed_total") == 0
    prompts = [(r.prompt, len(r.resume.token_ids) > 0) for r in worker.requests]
    assert prompts == [("batch", False), ("now", False), ("batch", True)]


async def test_streams_under_bursts_are_the_same_to_the_token():
    workers = [ScriptedWorker(f"w-{n}", slots=4, tokens=TOKENS, pace=0.01) for n in range(2)]
    async with running_fleet(*workers) as fleet:
        queue = queue_of(fleet, reserved=0.05)
        batch = [asyncio.create_task(ask(fleet, f"b{n}", **FLEX)) for n in range(12)]
        await eventually(lambda: queue.running == 8)
        for burst in range(4):
            answers = await asyncio.gather(
                *(ask(fleet, f"i{burst}-{n}", tokens=4) for n in range(6))
            )
            assert answers == [expected_text(f"i{burst}-{n}", 4) for n in range(6)]
        assert await asyncio.gather(*batch) == [expected_text(f"b{n}", TOKENS) for n in range(12)]
        await undisturbed(fleet)
        assert await yielded(fleet) >= 6


async def test_between_interactive_requests_the_slot_is_not_taken_back():
    worker = ScriptedWorker(slots=1, tokens=TOKENS, pace=0.01)
    async with running_fleet(worker) as fleet:
        queue = queue_of(fleet, reserved=30.0)
        batch = asyncio.create_task(ask(fleet, "batch", **FLEX))
        await eventually(lambda: queue.meter.completion_tokens > 5)
        for number in range(5):
            await ask(fleet, f"p{number}", tokens=4)
            await asyncio.sleep(0.02)
        assert await yielded(fleet) == 1
        queue._reserve.seconds = 0.0
        queue.assign_slots()
        assert await batch == expected_text("batch", TOKENS)


async def test_without_a_token_it_makes_room_once_and_then_when_it_has_one():
    gate = asyncio.Event()

    async def hold_back(context, request, position):
        if request.prompt == "batch":
            await gate.wait()

    worker = ScriptedWorker(slots=1, tokens=TOKENS, pace=0.005, before_token=hold_back)
    async with running_fleet(worker) as fleet:
        queue = queue_of(fleet, reserved=0.0)
        batch = asyncio.create_task(ask(fleet, "batch", **FLEX))
        await eventually(lambda: worker.running == 1)
        await ask(fleet, "p0", tokens=4)
        await eventually(lambda: worker.running == 1)
        second = asyncio.create_task(ask(fleet, "p1", tokens=4))
        await eventually(lambda: len(queue.requests) == 1)
        queue.assign_slots()
        assert await yielded(fleet) == 1
        gate.set()
        assert await second == expected_text("p1", 4)
        assert await batch == expected_text("batch", TOKENS)
        assert await yielded(fleet) == 2


async def test_batch_requests_make_no_room_for_each_other():
    worker = ScriptedWorker(slots=1, tokens=TOKENS, pace=0.005)
    async with running_fleet(worker) as fleet:
        asked = [asyncio.create_task(ask(fleet, f"b{n}", **FLEX)) for n in range(3)]
        assert await asyncio.gather(*asked) == [expected_text(f"b{n}", TOKENS) for n in range(3)]
        assert await yielded(fleet) == 0


async def test_a_batch_request_with_choices_makes_room_and_is_whole():
    worker = ScriptedWorker(slots=2, tokens=TOKENS, pace=0.005)
    async with running_fleet(worker) as fleet:
        queue = queue_of(fleet)
        asked = asyncio.create_task(
            fleet.client.completions.create(
                model="tiny", prompt="b", seed=7, max_tokens=TOKENS, n=2, extra_body=FLEX
            )
        )
        await eventually(lambda: queue.meter.completion_tokens > 5)
        await asyncio.gather(*(ask(fleet, f"p{n}", tokens=4) for n in range(2)))
        answer = await asked
        assert [c.text for c in answer.choices] == [
            expected_text("b", TOKENS, choice=choice) for choice in range(2)
        ]
        assert await yielded(fleet) == 2

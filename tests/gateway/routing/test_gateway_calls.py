"""All requests of a gateway on a worker share one stream, and do not hold each other up."""

import asyncio
import json
from dataclasses import replace

import openai
import pytest

from clients import openai_client
from gateway_doubles import (
    DEFAULTS,
    MODEL,
    ScriptedWorker,
    eventually,
    expected_text,
    running_fleet,
)
from modelfleet_gateway.http.server import Gateway, address_of, listen
from modelfleet_gateway.routing import calls
from raw_http import connect, request

HEAD = "POST /v1/completions"


async def ask(fleet, prompt: str = "p", **fields) -> str:
    """The text of a streamed plain completion."""
    chunks = await fleet.client.completions.create(
        model="tiny", prompt=prompt, seed=7, stream=True, **fields
    )
    return "".join([chunk.choices[0].text async for chunk in chunks])


def streamed(prompt: str) -> bytes:
    body = {"model": "tiny", "prompt": prompt, "seed": 7, "stream": True}
    return request(HEAD, body=json.dumps(body).encode())


def words(raw: bytes) -> list[str]:
    """The texts of an answer's chunks, without fillers."""
    events = [line for line in raw.split(b"\n") if line.startswith(b"data: {")]
    texts = [json.loads(event[6:])["choices"][0]["text"] for event in events]
    return [text.split(" ")[0] for text in texts if text]


async def test_16_requests_share_one_stream_and_get_their_own_text():
    worker = ScriptedWorker(slots=16, tokens=20, pace=0.005)
    async with running_fleet(worker) as fleet:
        texts = await asyncio.gather(*(ask(fleet, f"p{i}") for i in range(16)))
        assert texts == [expected_text(f"p{i}", 20) for i in range(16)]
        assert await ask(fleet) == expected_text("p", 20)
    assert worker.shared_streams == 1


async def test_a_worker_of_an_earlier_version_gets_a_call_for_each_request():
    worker = ScriptedWorker(slots=16, tokens=20, pace=0.005, takes_many=False)
    async with running_fleet(worker) as fleet:
        texts = await asyncio.gather(*(ask(fleet, f"p{i}") for i in range(16)))
        assert texts == [expected_text(f"p{i}", 20) for i in range(16)]
    assert len(worker.requests) == 16


@pytest.mark.parametrize("later", [False, True], ids=["downgraded", "upgraded"])
async def test_a_worker_that_comes_back_in_another_version_is_asked_its_way(later):
    worker = ScriptedWorker(takes_many=not later)
    async with running_fleet(worker) as fleet:
        assert await ask(fleet) == expected_text("p", 8)
        await worker.kill()
        await fleet.ready(0)
        worker.takes_many = later
        await worker.start()
        await fleet.ready(1)
        assert await ask(fleet) == expected_text("p", 8)
    assert worker.shared_streams == 1


@pytest.mark.parametrize("takes_many", [True, False], ids=["shared", "single"])
async def test_a_client_that_leaves_ends_its_request_and_no_other(takes_many):
    worker = ScriptedWorker(tokens=60, pace=0.01, takes_many=takes_many)
    async with running_fleet(worker) as fleet:
        staying = asyncio.create_task(ask(fleet, "staying"))
        leaving = asyncio.create_task(ask(fleet, "leaving"))
        meter = fleet.gateway.dispatcher.queues[MODEL].meter
        await eventually(lambda: worker.running == 2 and meter.completion_tokens > 4)
        leaving.cancel()
        await eventually(lambda: len(worker.cancelled) == 1)
        assert await staying == expected_text("staying", 60)
        assert await ask(fleet) == expected_text("p", 60)
    assert worker.shared_streams == int(takes_many)


@pytest.mark.parametrize("takes_many", [True, False], ids=["shared", "single"])
async def test_a_slow_reader_holds_up_no_other_and_gets_all(takes_many):
    slow = ScriptedWorker(tokens=400, filler="x" * 5_000, takes_many=takes_many)
    async with running_fleet(slow) as fleet, asyncio.timeout(60):
        budget = fleet.gateway.app.bodies.budget
        reader, writer = await connect(fleet.url, receive_buffer=8192)
        writer.write(streamed("unread"))
        await eventually(lambda: budget.used > calls.MAX_UNREAD)
        await eventually(lambda: slow.pauses or not takes_many)
        assert [len(text) for text in await asyncio.gather(ask(fleet, max_tokens=4))] > [20_000]
        assert slow.running == 1, "it is paused, not ended"
        assert budget.used < 16 * calls.MAX_UNREAD, "what was on its way came, too"
        raw = await reader.read()
        while more := await reader.read():
            raw += more
        writer.close()
        assert words(raw) == expected_text("unread", 400).split()
        await eventually(lambda: budget.used == 0)


async def test_a_slow_reader_that_leaves_gives_back_what_waited_for_it():
    worker = ScriptedWorker(tokens=400, filler="x" * 5_000)
    async with running_fleet(worker) as fleet, asyncio.timeout(60):
        budget = fleet.gateway.app.bodies.budget
        _, writer = await connect(fleet.url, receive_buffer=8192)
        writer.write(streamed("unread"))
        await eventually(lambda: worker.pauses)
        writer.transport.abort()
        await eventually(lambda: len(worker.cancelled) == 1)
        await eventually(lambda: budget.used == 0)
        assert worker.shared_streams == 1


async def test_a_request_that_no_message_can_hold_ends_alone(monkeypatch):
    monkeypatch.setattr(calls, "MAX_MESSAGE", 10_000)
    worker = ScriptedWorker(tokens=60, pace=0.01)
    async with running_fleet(worker) as fleet:
        staying = asyncio.create_task(ask(fleet))
        await eventually(lambda: worker.running)
        with pytest.raises(openai.BadRequestError, match="too large to pass on"):
            await ask(fleet, "x" * 20_000)
        assert await staying == expected_text("p", 60)
    assert (len(worker.requests), worker.shared_streams) == (1, 1)


async def test_large_requests_pass_while_others_have_their_tokens():
    worker = ScriptedWorker(tokens=100, pace=0.005, slots=8)
    async with running_fleet(worker) as fleet:
        streaming = asyncio.create_task(ask(fleet))
        await eventually(lambda: worker.running)
        large = "y" * 2_000_000
        answer = await fleet.client.completions.create(
            model="tiny", prompt=large, n=4, seed=7, max_tokens=2
        )
        assert [c.text for c in answer.choices] == [
            expected_text(large, 2, choice=choice) for choice in range(4)
        ]
        assert await streaming == expected_text("p", 100)
    assert worker.shared_streams == 1


async def test_a_choice_whose_client_leaves_before_it_is_sent_is_not_sent():
    async def hold(context, request, position):
        await asyncio.sleep(60)

    worker = ScriptedWorker(before_accept=hold, slots=8)
    async with running_fleet(worker) as fleet:
        asked = asyncio.create_task(
            fleet.client.completions.create(model="tiny", prompt="x" * 3_000_000, n=8)
        )
        await eventually(lambda: worker.requests)
        asked.cancel()
        await eventually(lambda: not fleet.gateway.dispatcher.queues[MODEL].running)
        worker.before_accept = None
        assert await ask(fleet) == expected_text("p", 8)


async def test_a_stream_that_breaks_is_opened_again():
    worker = ScriptedWorker()
    broken = 0

    async def break_it(context, request, position):
        nonlocal broken
        if not broken:
            broken += 1
            raise RuntimeError("a bug of this worker")

    worker.before_token = break_it
    async with running_fleet(worker) as fleet:
        assert await ask(fleet) == expected_text("p", 8)
    assert len(worker.requests) == 2


async def test_a_whole_answer_that_is_too_much_to_hold_ends_with_its_reason():
    worker = ScriptedWorker(tokens=400, filler="x" * 5_000)
    options = replace(DEFAULTS, max_body_bytes=100_000, max_held_bytes=400_000)
    async with running_fleet(worker, options=options) as fleet:
        with pytest.raises(openai.InternalServerError) as refused:
            await fleet.client.completions.create(model="tiny", prompt="p")
        assert refused.value.status_code == 503
        budget = fleet.gateway.app.bodies.budget
        await eventually(lambda: budget.used == 0)
        answer = await fleet.client.completions.create(model="tiny", prompt="p", max_tokens=10)
        assert len(answer.choices[0].text) > 50_000
        assert len(await ask(fleet)) > 2_000_000, "a stream is not held"


async def test_two_gateways_use_a_worker_side_by_side():
    worker = ScriptedWorker(slots=16, tokens=20, pace=0.005)
    async with running_fleet(worker) as fleet:
        listener = listen("127.0.0.1:0")
        options = replace(DEFAULTS, operator=fleet.operator.address, gateway_id="gw-2")
        second = Gateway(options, listener)
        running = asyncio.create_task(second.run())
        await eventually(lambda: MODEL in second.dispatcher.queues)
        await eventually(lambda: second.dispatcher.queues[MODEL].ready_workers)
        async with openai_client(f"http://{address_of(listener)}") as client:
            other = replace(fleet, client=client)
            both = [fleet, other] * 8
            texts = await asyncio.gather(*(ask(f, f"p{i}") for i, f in enumerate(both)))
        assert texts == [expected_text(f"p{i}", 20) for i in range(16)]
        second.drain()
        second.drain()
        await running
    assert worker.shared_streams == 2

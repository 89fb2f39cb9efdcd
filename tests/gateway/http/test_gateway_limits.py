"""Keys' limits at the door: who is refused, what a 429 says, and that OpenAI's client obeys it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import httpx
import openai
import pytest

from clients import tls
from gateway_doubles import (
    MODEL,
    Fleet,
    ScriptedWorker,
    api_key,
    eventually,
    expected_text,
    running_fleet,
)
from modelfleet_proto import fleet_pb2


def heavy_and_light(**limits: object) -> fleet_pb2.ApiKeys:
    """The key "none" has these limits, "light" none."""
    keys = [api_key("none", name="heavy", **limits), api_key("light", name="light")]
    return fleet_pb2.ApiKeys(keys=keys)


@contextlib.asynccontextmanager
async def fleet_with(*workers: ScriptedWorker, **limits: object) -> AsyncIterator[Fleet]:
    async with running_fleet(*workers, keys=heavy_and_light(**limits)) as fleet:
        yield fleet


async def ask(client: openai.AsyncOpenAI, prompt: str = "p", **fields) -> str:
    answer = await client.completions.create(model="tiny", prompt=prompt, seed=7, **fields)
    return answer.choices[0].text


async def test_the_request_after_the_last_is_refused_and_says_when():
    async with fleet_with(ScriptedWorker(), requests_per_minute=3) as fleet:
        for left in (2, 1, 0):
            answer = await fleet.client.completions.with_raw_response.create(
                model="tiny", prompt="p", seed=7
            )
            assert answer.headers["x-ratelimit-limit-requests"] == "3"
            assert answer.headers["x-ratelimit-remaining-requests"] == str(left)
            assert answer.headers["x-ratelimit-reset-requests"]
        with pytest.raises(openai.RateLimitError, match="3 requests a minute") as refused:
            await ask(fleet.client)
        assert refused.value.code == "rate_limit_exceeded"
        assert refused.value.type == "rate_limit_error"
        headers = refused.value.response.headers
        assert 50 <= int(headers["retry-after"]) <= 80
        assert 50_000 <= int(headers["retry-after-ms"]) <= 80_000
        assert headers["x-ratelimit-remaining-requests"] == "0"
        assert await ask(fleet.client.with_options(api_key="light")) == expected_text("p", 8)
        assert 'limited_total{key="heavy",model="default/tiny",reason="requests"} 1.0' in (
            fleet.metrics()
        )


async def test_tokens_are_counted_as_they_were_used():
    async with fleet_with(ScriptedWorker(), tokens_per_minute=100) as fleet:
        answer = await fleet.client.completions.with_raw_response.create(
            model="tiny", prompt="p", seed=7, max_tokens=90
        )
        assert int(answer.headers["x-ratelimit-remaining-tokens"]) < 10, "reserved"
        answer = await fleet.client.completions.with_raw_response.create(
            model="tiny", prompt="p", seed=7, max_tokens=10
        )
        # The first took 5 tokens of prompt and 8 of the answer, the second has reserved its own.
        assert 60 <= int(answer.headers["x-ratelimit-remaining-tokens"]) <= 77
        with pytest.raises(openai.RateLimitError, match="100 tokens a minute"):
            await ask(fleet.client, max_tokens=95)


async def test_the_official_client_comes_back_no_sooner_than_it_is_told_and_is_served():
    gate = asyncio.Event()

    async def hold_back(context, request, position):
        await gate.wait()

    worker = ScriptedWorker(before_token=hold_back)
    async with fleet_with(worker, max_concurrent=1) as fleet:
        first = asyncio.create_task(ask(fleet.client, "first"))
        await eventually(lambda: worker.running)
        with pytest.raises(openai.RateLimitError, match="1 requests at once") as refused:
            await ask(fleet.client, "refused")
        assert int(refused.value.response.headers["retry-after-ms"]) >= 1000
        sent: list[float] = []

        async def note(_: httpx.Request) -> None:
            sent.append(time.monotonic())

        async with httpx.AsyncClient(verify=tls(), event_hooks={"request": [note]}) as http:
            patient = fleet.client.with_options(max_retries=8, http_client=http)
            again = asyncio.create_task(ask(patient, "again"))
            await eventually(lambda: sent)
            gate.set()
            assert await again == expected_text("again", 8)
        assert sent[1] - sent[0] >= 0.99
        assert await first == expected_text("first", 8)


async def test_a_client_that_goes_away_gives_its_place_back():
    gate = asyncio.Event()

    async def hold_back(context, request, position):
        await gate.wait()

    worker = ScriptedWorker(before_token=hold_back)
    async with fleet_with(worker, max_concurrent=1) as fleet:
        first = asyncio.create_task(ask(fleet.client))
        await eventually(lambda: worker.running)
        first.cancel()
        await eventually(lambda: worker.cancelled)
        gate.set()
        assert await ask(fleet.client) == expected_text("p", 8)


async def test_a_light_keys_request_has_the_first_slot_while_a_heavy_one_fills_the_queue():
    gate = asyncio.Event()

    async def hold_back(context, request, position):
        await gate.wait()

    worker = ScriptedWorker(slots=2, before_token=hold_back)
    async with fleet_with(worker) as fleet:
        heavy = [asyncio.create_task(ask(fleet.client, f"h{n}")) for n in range(100)]
        await eventually(lambda: len(fleet.queued) == 98)
        light = asyncio.create_task(ask(fleet.client.with_options(api_key="light"), "light"))
        await eventually(lambda: len(fleet.queued) == 99)
        gate.set()
        assert await light == expected_text("light", 8)
        await asyncio.gather(*heavy)
    assert "light" in [request.prompt for request in worker.requests[:4]]


async def test_a_full_queue_takes_a_light_keys_request_all_the_same():
    gate = asyncio.Event()

    async def hold_back(context, request, position):
        await gate.wait()

    worker = ScriptedWorker(slots=1, before_token=hold_back)
    async with running_fleet(worker, keys=heavy_and_light(), max_queue=4) as fleet:
        heavy = [asyncio.create_task(ask(fleet.client, f"h{n}")) for n in range(5)]
        await eventually(lambda: len(fleet.queued) == 4)
        light = asyncio.create_task(ask(fleet.client.with_options(api_key="light"), "light"))
        await eventually(lambda: any(task.done() for task in heavy))
        gate.set()
        assert await light == expected_text("light", 8)
        refused = [e for e in await asyncio.gather(*heavy, return_exceptions=True) if e is not None]
        refused = [error for error in refused if isinstance(error, openai.RateLimitError)]
        assert [error.code for error in refused] == ["queue_full"]


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/api/chat"])
async def test_other_apis_refuse_in_their_own_shape(path):
    async with fleet_with(ScriptedWorker(), requests_per_minute=1) as fleet:
        body = {
            "model": "tiny",
            "max_tokens": 5,
            "messages": [{"role": "user", "content": "p"}],
            "input": "p",
            "stream": False,
        }
        headers = {"authorization": "Bearer none"}
        assert (await fleet.http.post(path, json=body, headers=headers)).status_code == 200
        refused = await fleet.http.post(path, json=body, headers=headers)
        assert refused.status_code == 429
        assert "requests a minute" in str(refused.json()["error"])
        assert int(refused.headers["retry-after-ms"]) > 1000


async def test_a_priority_header_lowers_and_nonsense_is_refused():
    async with fleet_with(ScriptedWorker()) as fleet:
        with pytest.raises(openai.BadRequestError, match="expected interactive or batch"):
            await ask(fleet.client, extra_headers={"x-modelfleet-priority": "urgent"})
        await ask(fleet.client, extra_headers={"x-modelfleet-priority": "batch"})


async def test_a_wait_of_minutes_is_told_as_two_and_the_rest_in_the_message():
    gate = asyncio.Event()

    async def hold_back(context, request, position):
        await gate.wait()

    worker = ScriptedWorker(slots=1)
    async with running_fleet(worker, max_queue=3) as fleet:
        await ask(fleet.client)
        fleet.gateway.dispatcher.queues[MODEL].workers["w-0"].taken.service_seconds = 200.0
        worker.before_token = hold_back
        asked = [asyncio.create_task(ask(fleet.client, f"p{n}")) for n in range(4)]
        await eventually(lambda: len(fleet.queued) == 3)
        began = time.monotonic()
        with pytest.raises(openai.RateLimitError, match="room in about 600 s") as refused:
            await ask(fleet.client)
        assert 96 <= int(refused.value.response.headers["retry-after"]) <= 120
        assert 96_000 <= int(refused.value.response.headers["retry-after-ms"]) <= 120_000
        assert time.monotonic() - began < 60
        gate.set()
        await asyncio.gather(*asked)

"""Scaling with traffic running, on paced workers: real processes whose device only takes time."""

from __future__ import annotations

import asyncio
import time

import openai
import pytest

from local_fleet import StartFleet, eventually, manifest

pytestmark = pytest.mark.integration


async def test_nothing_is_dropped_while_it_scales_up_and_down_under_traffic(
    start_fleet: StartFleet,
):
    scaling = {
        "minReplicas": 1,
        "maxReplicas": 3,
        "targetQueueDepth": 4,
        "scaleDownDelay": "2s",
    }
    fleet = start_fleet(manifest(scaling=scaling), "--device", "paced")
    eventually("it is ready", fleet.is_ready)
    expected: dict[int, str] = {}
    most_replicas = 0

    async def ask(client: openai.AsyncOpenAI, number: int) -> None:
        """The same question always gets the same answer, whichever workers give it."""
        answer = await client.chat.completions.create(
            model="smollm2",
            messages=[{"role": "user", "content": f"question {number % 8}"}],
            max_tokens=32,
            temperature=0,
        )
        text = answer.choices[0].message.content
        assert text
        assert expected.setdefault(number % 8, text) == text

    async with fleet.client() as client:
        burst = [asyncio.create_task(ask(client, number)) for number in range(60)]
        while not all(task.done() for task in burst):
            most_replicas = max(most_replicas, fleet.status().get("replicas", 0))
            await asyncio.sleep(0.05)
        await asyncio.gather(*burst)

        # Trickling traffic goes on until the fleet is small again.
        trickle, deadline = 0, time.monotonic() + 40
        while len(fleet.workers()) > 1:
            assert time.monotonic() < deadline, "never scaled down"
            await asyncio.gather(ask(client, trickle), ask(client, trickle + 1))
            trickle += 2

    assert most_replicas == 3
    assert trickle > 0, "no request ran while it scaled down"
    assert fleet.gateway_metric("modelfleet_gateway_refusals_total") == 0


async def test_a_client_that_goes_away_stops_its_generation(start_fleet: StartFleet):
    fleet = start_fleet(manifest(), "--device", "paced")
    eventually("it is ready", fleet.is_ready)
    async with fleet.client() as client:
        stream = await client.chat.completions.create(
            model="smollm2",
            messages=[{"role": "user", "content": "go on and on"}],
            max_tokens=4000,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        await anext(aiter(stream))
        assert fleet.gateway_metric("modelfleet_gateway_in_flight") == 1
        await stream.close()
    eventually(
        "nothing runs",
        lambda: fleet.gateway_metric("modelfleet_gateway_in_flight") == 0,
        within=5,
    )

"""Scaling with traffic running, on paced workers: real processes whose device only takes time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from local_fleet import Fleet, StartFleet, eventually, manifest

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


async def test_ten_scale_cycles_under_traffic_refuse_and_lose_no_request(
    start_fleet: StartFleet, tmp_path: Path
):
    """From one worker to two and back, twice by way of none; each while the last one's drain."""
    scaling = {
        "minReplicas": 0,
        "maxReplicas": 2,
        "targetQueueDepth": 2,
        "scaleDownDelay": "500ms",
        "idleTimeout": "500ms",
    }
    quick = tmp_path / "quick.json"
    quick.write_text(json.dumps({"load_seconds": 0.05, "step_seconds": 0.05}))
    flags = ("--device", "paced", "--calibration", str(quick))
    fleet = start_fleet(manifest(scaling=scaling), *flags)
    eventually("it is ready", fleet.is_ready)
    clients = Clients(fleet)
    for cycle in range(10):
        fewest = 0 if cycle % 5 == 4 else 1
        async with clients.asking(8):
            await status_says(fleet, "two serve", lambda s: s.get("readyReplicas") == 2)
        async with clients.asking(fewest):
            await status_says(fleet, "few are left", at_most(fewest))
    assert clients.answered >= 10 * 8
    assert fleet.gateway_metric("modelfleet_gateway_refusals_total") == 0
    assert fleet.gateway_metric("modelfleet_gateway_lost_total") == 0


class Clients:
    """Ask without pause, and count; a request that fails in any way fails the test."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._texts: dict[int, str] = {}
        self.answered = 0

    @contextlib.asynccontextmanager
    async def asking(self, count: int) -> AsyncIterator[None]:
        """So many while the block runs; each then gets its last answer."""
        ending = asyncio.Event()
        async with self._fleet.client() as client, asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(self._ask(client, number, ending))
            try:
                yield
            finally:
                ending.set()

    async def _ask(self, client: openai.AsyncOpenAI, first: int, ending: asyncio.Event) -> None:
        for turn in itertools.count(first):
            question = turn % 8
            answer = await client.chat.completions.create(
                model="smollm2",
                messages=[{"role": "user", "content": f"question {question}"}],
                max_tokens=8,
                temperature=0,
            )
            text = answer.choices[0].message.content
            assert text
            assert self._texts.setdefault(question, text) == text
            self.answered += 1
            if ending.is_set():
                return


def at_most(count: int) -> Callable[[dict[str, Any]], bool]:
    return lambda status: status.get("replicas", 0) <= count


async def status_says(
    fleet: Fleet, what: str, condition: Callable[[dict[str, Any]], bool], within: float = 60
) -> None:
    """`eventually` for a test whose clients ask meanwhile."""
    deadline = time.monotonic() + within
    while not condition(fleet.status()):
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        await asyncio.sleep(0.05)


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

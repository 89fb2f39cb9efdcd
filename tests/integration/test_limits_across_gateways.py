"""Two real gateways and a real Fleet service: limits and priorities hold for both together."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest

from clients import tls
from gateway_doubles import DEFAULTS, MODEL, ScriptedWorker, eventually, expected_text
from modelfleet_gateway.http.server import Gateway, address_of, listen
from modelfleet_operator.decisions.api_keys import ApiKey, KeyLimits
from modelfleet_operator.decisions.view import ModelView, WorkerRoute
from modelfleet_operator.fleet.service import FleetService, serve

UNLIMITED = KeyLimits()
BODY = {"model": MODEL, "prompt": "p", "max_tokens": 8, "seed": 7}
RATE = 100
QUIET = 2.5  # shares move within two signals


class Door:
    """One gateway and a client of it."""

    def __init__(self, name: str, operator: str) -> None:
        listener = listen("127.0.0.1:0")
        self.gateway = Gateway(replace(DEFAULTS, operator=operator, gateway_id=name), listener)
        url = f"http://{address_of(listener)}"
        self.http = httpx.AsyncClient(
            base_url=url, timeout=30, verify=tls(), headers={"authorization": "Bearer key"}
        )
        self._running = asyncio.create_task(self.gateway.run())

    async def ready(self) -> None:
        queues = self.gateway.dispatcher.queues
        await eventually(lambda: MODEL in queues and queues[MODEL].ready_workers == 1)

    async def ask(self) -> int:
        return (await self.http.post("/v1/completions", json=BODY)).status_code

    async def kill(self) -> None:
        """As if its process ended: its streams end, it answers nothing any more."""
        await self.http.aclose()
        self.gateway.drain()
        self.gateway.drain()
        await self._running


@contextlib.asynccontextmanager
async def two_doors(
    limits: KeyLimits = UNLIMITED, *, worker: ScriptedWorker | None = None
) -> AsyncIterator[list[Door]]:
    worker = worker or ScriptedWorker(slots=64)
    await worker.start()
    fleet = FleetService(time.monotonic, wake=lambda _: None, wake_all=lambda: None)
    hashes = (hashlib.sha256(b"key").digest(),)
    fleet.publish_keys([ApiKey(id="default/key-1", hashes=hashes, limits=limits)])
    fleet.lead(1, [MODEL])
    route = WorkerRoute(id="w-0", address=worker.address, routable=True, revision="r1")
    view = ModelView(
        model=MODEL, served_names=(), max_queue=100, hold_timeout=30, created=1, workers=(route,),
        eta=0, phase="",
    )  # fmt: skip
    fleet.publish(view)
    server, port = await serve(fleet, "127.0.0.1:0")
    doors = [Door(f"gw-{n}", f"127.0.0.1:{port}") for n in range(2)]
    try:
        for door in doors:
            await door.ready()
        shares = [door.gateway.dispatcher.quotas.shares for door in doors]
        await eventually(lambda: all(one.gateways == 2 for one in shares))
        yield doors
    finally:
        for door in doors:
            with contextlib.suppress(RuntimeError):
                await door.kill()
        await server.stop(None)
        await worker.kill()


async def taken(doors: list[Door], *, at_least: float = 0.0) -> int:
    """How many are served until none was for QUIET seconds; or for so many seconds at least."""
    served, began = 0, time.monotonic()
    end = began + max(QUIET, at_least)

    async def ask_on(door: Door) -> None:
        nonlocal served, end
        while time.monotonic() < end:
            if await door.ask() == 200:
                served += 1
                if not at_least:
                    end = time.monotonic() + QUIET
            else:
                await asyncio.sleep(0.05)

    await asyncio.gather(*(ask_on(door) for door in doors for _ in range(4)))
    return served


async def test_a_burst_at_both_takes_the_limit_and_no_more():
    async with two_doors(KeyLimits(requests_per_minute=RATE)) as doors:
        assert await taken(doors) == RATE


async def test_a_burst_at_one_gets_what_the_other_does_not_use():
    async with two_doors(KeyLimits(requests_per_minute=RATE)) as doors:
        served = await taken(doors[:1])
        assert 0.95 * RATE <= served <= RATE
        assert served + await taken(doors) <= RATE


async def test_after_one_has_died_the_other_gets_its_share_within_seconds():
    async with two_doors(KeyLimits(requests_per_minute=RATE)) as doors:
        survivor, dying = doors
        served = [await dying.ask() for _ in range(20)].count(200)
        await asyncio.sleep(1.0)  # its signals are on their way
        await dying.kill()
        shares = survivor.gateway.dispatcher.quotas.shares
        await eventually(lambda: shares.gateways == 1)
        served += await taken([survivor])
        assert 0.95 * RATE <= served <= 1.05 * RATE


@pytest.mark.parametrize("doors_asked", [1, 2])
async def test_so_many_run_at_once_at_both_together(doors_asked):
    async with two_doors(KeyLimits(max_concurrent=6)) as doors:
        workers = [d.gateway.dispatcher.queues[MODEL] for d in doors]
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, sum(queue.running for queue in workers))
                await asyncio.sleep(0.001)

        watching = asyncio.create_task(watch())
        assert await taken(doors[:doors_asked], at_least=2.0) > 6
        watching.cancel()
        assert most <= 6


async def test_a_batch_stream_of_one_gateway_makes_room_for_what_waits_in_the_other():
    worker = ScriptedWorker(slots=1, tokens=400, pace=0.02)
    async with two_doors(worker=worker) as (first, second):
        queue = first.gateway.dispatcher.queues[MODEL]
        flex = BODY | {"prompt": "batch", "max_tokens": 300, "service_tier": "flex"}
        batch = asyncio.create_task(first.http.post("/v1/completions", json=flex))
        await eventually(lambda: queue.meter.completion_tokens > 5)
        answer = await second.http.post("/v1/completions", json=BODY)
        assert answer.json()["choices"][0]["text"] == expected_text("p", 8)
        assert not batch.done(), "it was not waited for"
        await eventually(lambda: not queue.waiting_elsewhere)
        assert (await batch).json()["choices"][0]["text"] == expected_text("batch", 300)
        assert [len(r.resume.token_ids) > 0 for r in worker.requests][-1]

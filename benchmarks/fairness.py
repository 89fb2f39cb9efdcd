"""A light key's time to first token while a heavy one fills every slot and the queue.

python benchmarks/fairness.py [--requests 100] [--slots 8] [--queued 80]

One gateway, one worker that takes a token's time and no processor, both in this process. The light
key asks one short chat after another: alone, then beside a heavy key that keeps every slot and
`--queued` requests in the queue; then both under one key, as they would fare without fairness. To
compare: the wait until any slot frees, as the worker saw it for each of the light key's requests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import statistics
import time
from bisect import bisect_left
from dataclasses import dataclass, field

import httpx
import uvloop

from gateway_cpu import MODEL, Operator, serving
from machine import processor
from modelfleet_gateway.access.caller import CALLER, Caller
from modelfleet_gateway.http.server import Gateway, address_of, listen
from modelfleet_gateway.options import Options
from modelfleet_process.logs import configure, console_style
from modelfleet_process.options import LogLevel
from modelfleet_proto import fleet_pb2_grpc, worker_pb2, worker_pb2_grpc

STEP = 0.01  # seconds a token
LONGEST, SHORTEST = 48, 16  # tokens of the heavy key's answers, so that slots free at any time
BAR = 1.3


@dataclass
class Worker(worker_pb2_grpc.WorkerServicer):
    """Generates a token each STEP for everyone, and notes when slots free."""

    slots: int
    freed: list[float] = field(default_factory=list)  # ascending

    async def WatchStats(self, request, context):  # noqa: N802 - the protocol's name
        while True:
            yield worker_pb2.Stats(
                worker_id="w-0",
                state=worker_pb2.WORKER_STATE_READY,
                model=MODEL,
                model_digest="digest",
                slots=self.slots,
            )
            await asyncio.sleep(0.5)

    async def Generate(self, request, context):  # noqa: N802 - the protocol's name
        accepted = worker_pb2.Accepted(model_digest="digest", worker_id="w-0", prompt_tokens=9)
        yield worker_pb2.GenerateResponse(accepted=accepted)
        tokens = request.stop.max_tokens
        for token in range(tokens):
            await asyncio.sleep(STEP)
            tokens_event = worker_pb2.Tokens(ids=[token], text=" word")
            yield worker_pb2.GenerateResponse(tokens=tokens_event)
        self.freed.append(time.perf_counter())
        finished = worker_pb2.Finished(
            reason=worker_pb2.FINISH_REASON_LENGTH, prompt_tokens=9, completion_tokens=tokens
        )
        yield worker_pb2.GenerateResponse(finished=finished)

    def wait_at(self, arrival: float) -> float:
        """Seconds from then until a slot was free."""
        index = bisect_left(self.freed, arrival)
        return self.freed[index] - arrival if index < len(self.freed) else 0.0


def knowing(app):
    """The application, for whom a header says who asks: the keys' own cost is not measured here."""

    async def run(scope, receive, send):
        key = dict(scope["headers"]).get(b"x-key", b"").decode()
        await app({**scope, CALLER: Caller(key_id=key)}, receive, send)

    return run


async def ttft(http: httpx.AsyncClient, key: str, tokens: int) -> float:
    """Seconds to the first token of one streamed chat, which is read to its end."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": True,
        "max_tokens": tokens,
    }
    began, first = time.perf_counter(), 0.0
    async with http.stream(
        "POST", "/v1/chat/completions", json=body, headers={"x-key": key}
    ) as answer:
        if answer.status_code == 429:
            await answer.aread()
            await asyncio.sleep(0.1)
            return 0.0
        async for line in answer.aiter_lines():
            if not first and '"content":" word"' in line:
                first = time.perf_counter() - began
    return first


async def flood(http: httpx.AsyncClient, key: str, chance: random.Random) -> None:
    while True:
        await ttft(http, key, chance.randint(SHORTEST, LONGEST))


async def light(http: httpx.AsyncClient, key: str, worker: Worker, count: int):
    """The first tokens' times of one request after another, and the waits until a slot freed."""
    times, waits = [], []
    for _ in range(count):
        began = time.perf_counter()
        times.append(await ttft(http, key, SHORTEST))
        waits.append(worker.wait_at(began))
        await asyncio.sleep(0.02)
    return times, waits


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


async def main(requests: int, slots: int, queued: int) -> None:
    worker = Worker(slots)
    chance = random.Random(1)
    async with (
        serving(worker_pb2_grpc.add_WorkerServicer_to_server, worker) as address,
        serving(fleet_pb2_grpc.add_FleetServicer_to_server, Operator(address)) as operator,
    ):
        listener = listen("127.0.0.1:0")
        gateway = Gateway(Options(operator=operator), listener)
        for path, app in list(gateway.app.direct.items()):
            gateway.app.direct[path] = knowing(app)
        running = asyncio.create_task(gateway.run())
        url = f"http://{address_of(listener)}"
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as http:
            queues = gateway.dispatcher.queues
            while MODEL not in queues or not queues[MODEL].ready_workers:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            alone, _ = await light(http, "light", worker, requests)
            floods = [
                asyncio.create_task(flood(http, "heavy", chance)) for _ in range(slots + queued)
            ]
            await asyncio.sleep(2)
            beside, waits = await light(http, "light", worker, requests)
            same, _ = await light(http, "heavy", worker, max(requests // 20, 3))
            for task in floods:
                task.cancel()
            await asyncio.gather(*floods, return_exceptions=True)
        gateway.drain()
        gateway.drain()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    most = p95(alone) + p95(waits)
    print(f"{processor()}; {slots} slots, {queued} queued, {requests} requests of the light key")
    print(f"alone                      p50 {ms(statistics.median(alone))}  p95 {ms(p95(alone))}")
    print(f"until a slot frees         p50 {ms(statistics.median(waits))}  p95 {ms(p95(waits))}")
    print(f"beside the heavy key       p50 {ms(statistics.median(beside))}  p95 {ms(p95(beside))}")
    print(f"both under one key         p50 {ms(statistics.median(same))}")
    print(f"p95 over alone + a slot's wait: {p95(beside) / most:.2f} (bar: {BAR})")


def ms(seconds: float) -> str:
    return f"{seconds * 1000:7.1f} ms"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--queued", type=int, default=80)
    options = parser.parse_args()
    configure(None, LogLevel.ERROR, console_style(utc=True))  # lines cost time
    uvloop.run(main(options.requests, options.slots, options.queued))

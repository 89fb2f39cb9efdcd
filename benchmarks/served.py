"""An engine behind a streaming API of its own: a server process, and the work sent to it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import aiohttp

import machine
import workload as work

READY_WITHIN = 900.0  # seconds; vLLM compiles for minutes on a busy machine
SETTLES = 5.0  # seconds for an engine's idle-time work, which must not disturb the measurement
HOST = "127.0.0.1"

Generate = Callable[[work.Request], Awaitable[work.Timing]]


@dataclasses.dataclass(frozen=True)
class Measured:
    start_seconds: float
    figures: dict[str, work.Figures]
    limits: machine.Limits


async def measure(generate: Generate, job: work.Job, begun: float) -> Measured:
    """All that the job asks of a server that was started at `begun`."""
    first = await generate(work.FIRST)
    await generate(work.WARMING)
    figures: dict[str, work.Figures] = {}
    limits = None
    for workload in job.workloads:
        figures[workload] = await measure_workload(generate, work.requests(job, workload))
        # After the first: between the two whose shares of the limits are told.
        limits = limits or await _limits()
    return Measured(first.first - begun, figures, limits or await _limits())


async def _limits() -> machine.Limits:
    await asyncio.sleep(SETTLES)
    return machine.measured()


async def measure_workload(generate: Generate, requests: list[work.Request]) -> work.Figures:
    """STREAMS clients: each sends its next request as soon as it has its answer."""
    clients = asyncio.Semaphore(work.STREAMS)

    async def by_a_client(request: work.Request) -> work.Timing:
        async with clients:
            return await generate(request)

    return work.figures(requests, await asyncio.gather(*map(by_a_client, requests)))


def print_result(version: str, weight_bytes: int, measured: Measured) -> None:
    """As the last line, where benchmarks/engine.py looks for it."""
    result = work.Result(
        version=version,
        start_seconds=measured.start_seconds,
        weight_bytes=weight_bytes,
        figures=measured.figures,
        limits=measured.limits,
    )
    print(json.dumps(dataclasses.asdict(result)))


def cores() -> int:
    return len(os.sched_getaffinity(0))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def server(command: Sequence[str], environment: Mapping[str, str] = {}) -> Iterator[float]:
    """When the process was started; what it prints goes to our standard error."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=sys.stderr, env={**os.environ, **environment})
    try:
        yield begun
    finally:
        process.terminate()
        process.wait()


@contextlib.asynccontextmanager
async def client(port: int) -> AsyncIterator[Client]:
    no_limit = aiohttp.ClientTimeout()
    # One connection a request: llama-server closes those that are kept, at times under a request.
    fresh = aiohttp.TCPConnector(force_close=True)
    url = f"http://{HOST}:{port}"
    async with aiohttp.ClientSession(url, timeout=no_limit, connector=fresh) as session:
        yield Client(session)


@dataclasses.dataclass(frozen=True)
class Client:
    session: aiohttp.ClientSession

    async def healthy(self, path: str) -> None:
        """Returns as soon as a GET of the path answers 200."""
        async with asyncio.timeout(READY_WITHIN):
            while True:
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    async with self.session.get(path) as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(0.01)

    async def stream(
        self,
        path: str,
        body: Mapping[str, Any],
        tokens_after: Callable[[dict[str, Any], int], int],
        new_tokens: int,
    ) -> work.Timing:
        """One answer of exactly so many tokens, as server-sent events.

        The function gets an event and how many tokens had come before it.
        """
        begun = time.perf_counter()
        first = last = 0.0
        count = 0
        async with self.session.post(path, json=body) as answer:
            assert answer.status == 200, await answer.text()
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    came = time.perf_counter()
                    before = count
                    count = tokens_after(json.loads(line.removeprefix(b"data: ")), before)
                    if count > before:
                        last = came
                        first = first or last
        assert count == new_tokens, (count, new_tokens)
        return work.Timing(begun, first, last)

"""The gap that a failover leaves in streams: `python benchmarks/failover_gap.py MODEL`.

Two workers of a real model on the compiled step and a gateway, all processes of this machine. Each
turn 8 streams run, one worker is killed (SIGKILL), drained (SIGTERM, handing over at once) or
stopped (SIGSTOP), and for each stream that it had the longest time between two tokens is taken.
Then another takes its place at its address. MODEL: a folder.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from gateway_cpu import Operator, gateway, serving, wait_until_ready
from machine import description
from modelfleet_gateway.routing.workers import STATS_TIMEOUT
from modelfleet_proto import fleet_pb2, fleet_pb2_grpc
from worker_process import MODEL, ready_worker

HERE = Path(__file__).resolve().parents[1]
STREAMS = 8
BEGUN = 1.5  # seconds of all streams before the worker goes
SENT = {"kill": signal.SIGKILL, "drain": signal.SIGTERM, "stop": signal.SIGSTOP}


@dataclass
class Worker:
    """One worker process at an address that stays."""

    name: str
    port: int
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Returns when it is ready."""
        self.process = subprocess.Popen(  # noqa: ASYNC220  it takes a millisecond
            [
                *(sys.executable, "-m", "modelfleet_worker", "--device", "cpu", "--model", MODEL),
                *("--source", f"file://{self.folder}", "--dtype", "BFloat16"),
                *("--listen", self.address, "--worker-id", self.name, "--die-with-parent"),
                *("--drain-timeout", "0", "--kv-cache-memory", "256Mi"),
            ],
            stderr=subprocess.DEVNULL,
        )
        while True:
            assert self.process.poll() is None, f"{self.name} did not start"
            with contextlib.suppress(Exception):  # it does not listen yet
                async with asyncio.timeout(10), ready_worker(self.address):
                    return
            await asyncio.sleep(0.1)

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@contextlib.asynccontextmanager
async def fleet(folder: Path) -> AsyncIterator[tuple[str, dict[str, Worker]]]:
    """The gateway's address and its workers."""
    workers = {name: Worker(name, free_port(), folder) for name in ("w-0", "w-1")}
    try:
        for worker in workers.values():
            await worker.start()
        operator = Operator("")
        operator.serve(
            fleet_pb2.ModelView(
                model=MODEL,
                max_queue=100,
                hold_timeout=60,
                routing_policy="PrefixAware",
                workers=[
                    fleet_pb2.WorkerRoute(worker_id=w.name, address=w.address, routable=True)
                    for w in workers.values()
                ],
            )
        )
        async with serving(fleet_pb2_grpc.add_FleetServicer_to_server, operator) as link:
            with gateway(HERE, link) as (_, address):
                await wait_until_ready(address)
                yield address, workers
    finally:
        for worker in workers.values():
            worker.end()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def stream(address: str, number: int, tokens: int, begun: asyncio.Event) -> tuple[str, float]:
    """The worker that it began on, and the longest time between two of its tokens."""
    body = json.dumps(
        {
            "model": MODEL,
            "prompt": f"Write a long story about number {number}.",
            "stream": True,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
    ).encode()
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/completions HTTP/1.1\r\nhost: gateway\r\ncontent-length: {len(body)}"
    writer.write(head.encode() + b"\r\nconnection: close\r\n\r\n" + body)
    received, last, longest = b"", 0.0, 0.0
    while data := await reader.read(65536):
        received += data
        if b"data: {" in data:
            now = time.perf_counter()
            longest, last = max(longest, now - (last or now)), now
            begun.set()
    writer.close()
    assert b"data: [DONE]" in received, received[-500:]
    name = received.partition(b"x-modelfleet-worker: ")[2].partition(b"\r\n")[0].decode()
    return name, longest


async def turn(address: str, workers: dict[str, Worker], sent: str, tokens: int) -> list[float]:
    begun = [asyncio.Event() for _ in range(STREAMS)]
    asked = [
        asyncio.create_task(stream(address, number, tokens, begun[number]))
        for number in range(STREAMS)
    ]
    await asyncio.gather(*(event.wait() for event in begun))
    await asyncio.sleep(BEGUN)
    going = workers["w-0"]
    assert going.process is not None
    going.process.send_signal(SENT[sent])
    gaps = [longest for name, longest in await asyncio.gather(*asked) if name == going.name]
    going.end()
    await going.start()
    await asyncio.sleep(2)  # the gateway has its Stats again
    return gaps


def quantiles(seconds: list[float]) -> str:
    p95 = statistics.quantiles(seconds, n=20)[-1]
    return f"median {statistics.median(seconds):.2f} s, p95 {p95:.2f} s, most {max(seconds):.2f} s"


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--turns", type=int, default=4, help="of each kind")
    parser.add_argument("--tokens", type=int, default=400)
    args = parser.parse_args()
    print(description(), flush=True)
    async with fleet(args.model.absolute()) as (address, workers):
        for sent in SENT:
            gaps: list[float] = []
            for _ in range(args.turns):
                gaps += await turn(address, workers, sent, args.tokens)
            bound = STATS_TIMEOUT if sent == "stop" else 0.0
            print(f"{sent}: {len(gaps)} streams, {quantiles(gaps)} (bar: {bound + 0.6:.1f} s)")


if __name__ == "__main__":
    asyncio.run(main())

"""A worker's CPU seconds for 1,000 answers that 16 clients read, of one or more builds in turn.

python benchmarks/worker_cpu.py [--checkout DIR ...] [--rounds 3] [--answers 320]

Each checkout brings its own `.venv`; the others are compared with the first. The device is paced,
so that all CPU time is that of serving. Each is asked as gateways of its version ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil

from alternation import compare
from modelfleet_gateway.routing.calls import SharedStream
from modelfleet_gateway.routing.channels import open_channel
from modelfleet_proto import worker_pb2, worker_pb2_grpc
from worker_process import MODEL, generate, generate_shared, ready_worker

STREAMS = 16  # at once
TOKENS = 32  # of each answer
WARMING = 32  # answers before those that count
PROMPT = list(range(1, 10))
PACE = Path(__file__).resolve().parents[1] / "examples" / "paced.json"


@contextlib.contextmanager
def worker(checkout: Path) -> Iterator[tuple[psutil.Process, str]]:
    """A checkout's worker process, and its address."""
    with tempfile.TemporaryDirectory() as scratch:
        address = Path(scratch, "address")
        process = subprocess.Popen(
            [
                *(checkout / ".venv/bin/python", "-m", "modelfleet_worker", "--device", "paced"),
                *("--calibration", PACE, "--model", MODEL, "--source", "hf://a/b"),
                *("--address-file", address),
            ],
            stderr=subprocess.DEVNULL,
        )
        try:
            while not address.exists():
                assert process.poll() is None, f"the worker of {checkout} did not start"
                time.sleep(0.02)
            yield psutil.Process(process.pid), address.read_text()
        finally:
            process.kill()
            process.wait()


async def measure(checkout: Path, count: int) -> float:
    """CPU seconds of a checkout's worker for 1,000 answers."""
    with worker(checkout) as (process, address):
        async with ready_worker(address) as stub, open_channel(address) as channel:
            return await of_answers(stub, channel, process, count)


async def of_answers(
    stub: worker_pb2_grpc.WorkerAsyncStub,
    channel: grpc.aio.Channel,
    process: psutil.Process,
    count: int,
) -> float:
    """CPU seconds of the process for 1,000 answers."""
    stats = await stub.GetStats(worker_pb2.StatsRequest())
    stream = SharedStream(channel) if stats.takes_many else None

    async def answers(number: int) -> None:
        left = iter(range(number))

        async def client() -> None:
            for _ in left:
                if stream is not None:
                    await generate_shared(stream, PROMPT, TOKENS)
                else:
                    await generate(stub, PROMPT, TOKENS)

        await asyncio.gather(*(client() for _ in range(STREAMS)))

    await answers(WARMING)
    before = process.cpu_times()
    await answers(count)
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / count * 1000


if __name__ == "__main__":
    compare(measure, (__doc__ or "").partition("\n")[0], "answers", 320)

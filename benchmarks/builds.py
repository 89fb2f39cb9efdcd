"""Two builds of our own worker, asked in turn, on the work of benchmarks/engine.py: is one slower?

`benchmarks/builds.py FOLDER OLD NEW` takes two checkouts, each with its own .venv (`make install`).
Both workers run at once and one of them is asked, so that both meet the same moods of the machine:
a ratio is that of two measurements within seconds. Nothing else should run. Each is asked as
gateways of its version ask.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import served
import workload as work
from modelfleet_gateway.routing.calls import SharedStream
from modelfleet_gateway.routing.channels import open_channel
from modelfleet_proto import worker_pb2
from worker_process import MODEL, generate, generate_shared, ready_worker

WEIGHTS = ("bf16", "int8", "int4")
WORKLOADS = ("single", "uniform", "shared")
ROUNDS = 12

Ask = Callable[[work.Request], Any]


def start(checkout: Path, folder: str, weights: str, scratch: Path) -> subprocess.Popen[bytes]:
    """The build's worker; it writes its address and its log into `scratch`."""
    quantized = () if weights == "bf16" else ("--weights", weights)
    with (scratch / "log").open("wb") as output:
        return subprocess.Popen(
            [
                *(checkout / ".venv/bin/python", "-m", "modelfleet_worker", "--device", "cpu"),
                *("--model", MODEL, "--source", f"file://{folder}", "--dtype", "BFloat16"),
                *("--address-file", scratch / "address", "--context-length", str(work.CONTEXT)),
                *quantized,
            ],
            stderr=output,
        )


@contextlib.asynccontextmanager
async def running(checkout: Path, folder: str, weights: str) -> AsyncIterator[Ask]:
    """A function that asks the build's worker, which is loaded and warm."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        worker = start(checkout, folder, weights, scratch)
        try:
            while not (scratch / "address").exists():
                assert worker.poll() is None, (scratch / "log").read_text()
                await asyncio.sleep(0.01)
            address = (scratch / "address").read_text().strip()
            async with ready_worker(address) as stub, open_channel(address) as channel:
                stats = await stub.GetStats(worker_pb2.StatsRequest())
                stream = SharedStream(channel) if stats.takes_many else None

                def ask(request: work.Request) -> Any:
                    if stream is not None:
                        return generate_shared(stream, request.ids, request.new_tokens)
                    return generate(stub, request.ids, request.new_tokens)

                await ask(work.FIRST)
                await ask(work.WARMING)
                yield ask
        finally:
            worker.terminate()
            worker.wait()


async def speeds(ask: Ask, job: work.Job, workloads: Sequence[str]) -> dict[str, float]:
    """Each figure as a rate: more is better."""
    found = {}
    for workload in workloads:
        figures = await served.measure_workload(ask, work.requests(job, workload))
        found[f"{workload}, prompts"] = 1 / figures.ttft
        found[f"{workload}, decode"] = figures.decode_rate
        found[f"{workload}, all"] = figures.batch_rate
    return found


async def compare(options: argparse.Namespace, weights: str) -> dict[str, list[float]]:
    """New over old, a ratio for each round."""
    ratios: dict[str, list[float]] = defaultdict(list)
    async with (
        running(options.old, options.folder, weights) as old,
        running(options.new, options.folder, weights) as new,
    ):
        await asyncio.sleep(served.SETTLES)
        for repeat in range(options.rounds):
            job = work.Job(folder=options.folder, workloads=(), repeat=repeat, lengths=())
            order = (old, new) if repeat % 2 else (new, old)
            rates = {ask: await speeds(ask, job, options.workloads) for ask in order}
            for name, rate in rates[new].items():
                ratios[f"{weights}: {name}"].append(rate / rates[old][name])
    return ratios


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", help="Hugging Face folder of SmolLM2 (`make model` prints it)")
    arguments.add_argument("old", type=Path)
    arguments.add_argument("new", type=Path)
    arguments.add_argument("--rounds", type=int, default=ROUNDS)
    arguments.add_argument("--weights", nargs="+", choices=WEIGHTS, default=WEIGHTS)
    arguments.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=WORKLOADS)
    options = arguments.parse_args()
    print("| row | new / old, median | middle half |\n|---|---|---|")
    for weights in options.weights:
        began = time.perf_counter()
        for row, found in asyncio.run(compare(options, weights)).items():
            low, _, high = quantiles(found, n=4)
            print(f"| {row} | {median(found):.3f} | {low:.2f} to {high:.2f} |", flush=True)
        print(f"| ({time.perf_counter() - began:.0f} s) | | |", flush=True)


if __name__ == "__main__":
    main()

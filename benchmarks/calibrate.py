"""Measures a worker and prints a calibration (JSON) for `modelfleet simulate` and the paced device.

A straight line through a few points is all they know: seconds for a step, for each decoding
sequence in it and for each token of a prompt; below what a step of one sequence takes, none is.
`examples/paced.json` was made so.

    benchmarks/calibrate.py FOLDER --source hf://HuggingFaceTB/SmolLM2-135M-Instruct
    benchmarks/calibrate.py --address 10.0.0.7:9000 --source hf://...   # a worker that serves it
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import workload as work
from modelfleet_proto import worker_pb2
from worker_process import MODEL, generate, ready_worker, worker_process

REPEATS = 3
FEW, MANY = 1, 16  # decoding sequences
SHORT, LONG = 64, 1024  # tokens of a prompt


async def measure(address: str, source: str, started: float) -> dict[str, Any]:
    """`started`: when the worker was, on perf_counter; 0 where it runs already."""
    async with ready_worker(address) as worker:
        load = time.perf_counter() - started if started else 0.0
        stats = await worker.GetStats(worker_pb2.StatsRequest())
        model = stats.model or MODEL
        await generate(worker, work.prompt(1, LONG), 16, model)

        async def step(sequences: int, seed: int) -> float:
            """Seconds of a step in which so many sequences decode."""
            timings = await asyncio.gather(
                *(generate(worker, work.prompt(seed + i, 16), 128, model) for i in range(sequences))
            )
            return statistics.median((t.last - t.first) / 127 for t in timings)

        async def first_token(tokens: int, seed: int) -> float:
            timing = await generate(worker, work.prompt(seed, tokens), 1, model)
            return timing.first - timing.begun

        few = statistics.median([await step(FEW, 1000 * r) for r in range(1, REPEATS + 1)])
        many = statistics.median([await step(MANY, 2000 * r) for r in range(1, REPEATS + 1)])
        short = statistics.median([await first_token(SHORT, 31 * r) for r in range(1, REPEATS + 1)])
        long = statistics.median([await first_token(LONG, 37 * r) for r in range(1, REPEATS + 1)])
    sequence = (many - few) / (MANY - FEW)
    prefill = (long - short) / (LONG - SHORT)
    step = max(few - FEW * sequence, 0.0)
    return {
        "model": source,
        "measured_on": f"{processor()}, {stats.computed_by}, {datetime.date.today()}",
        "step_seconds": round(step, 6),
        "shortest_step_seconds": round(few, 6),
        "decode_sequence_seconds": round(max(sequence, 0.0), 6),
        "prefill_token_seconds": round(prefill, 6),
        "request_seconds": round(max(short - step - SHORT * prefill, 0.0), 6),
        **({"load_seconds": round(load, 2)} if started else {}),
        "max_sequences": stats.slots,
        "kv_tokens": stats.kv_blocks * 16,
        "context_length": stats.context_length,
    }


def processor() -> str:
    """Of this machine: run it where the worker is, or correct the line."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    arguments.add_argument(
        "folder", nargs="?", help="Hugging Face folder (`make model` prints one)"
    )
    arguments.add_argument("--address", help="HOST:PORT of a worker that serves a model already")
    arguments.add_argument("--source", default="", help="as spec.model.source says it")
    options = arguments.parse_args()
    if (options.folder is None) is (options.address is None):
        arguments.error("give a FOLDER, or the --address of a worker")
    if options.address:
        calibration = asyncio.run(measure(options.address, options.source, 0.0))
    else:
        started = time.perf_counter()
        with worker_process(options.folder, options.dtype) as address:
            calibration = asyncio.run(measure(address, options.source, started))
    print(json.dumps(calibration, indent=2))


if __name__ == "__main__":
    main()

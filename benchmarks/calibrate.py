"""Measures this machine's worker and prints a calibration for the paced device (JSON).

A straight line through a few points is all the paced device knows: seconds for a step, for each
decoding sequence in it and for each token of a prompt. `examples/paced.json` was made so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time

import workload as work
from worker_process import generate, ready_worker, worker_process

REPEATS = 3
FEW, MANY = 1, 16  # decoding sequences
SHORT, LONG = 64, 1024  # tokens of a prompt


async def measure(address: str, started: float) -> dict[str, float]:
    async with ready_worker(address) as worker:
        load = time.perf_counter() - started
        await generate(worker, work.prompt(1, LONG), 16)

        async def step(sequences: int, seed: int) -> float:
            """Seconds of a step in which so many sequences decode."""
            timings = await asyncio.gather(
                *(generate(worker, work.prompt(seed + i, 16), 128) for i in range(sequences))
            )
            return statistics.median((t.last - t.first) / 127 for t in timings)

        async def first_token(tokens: int, seed: int) -> float:
            timing = await generate(worker, work.prompt(seed, tokens), 1)
            return timing.first - timing.begun

        few = statistics.median([await step(FEW, 1000 * r) for r in range(1, REPEATS + 1)])
        many = statistics.median([await step(MANY, 2000 * r) for r in range(1, REPEATS + 1)])
        short = statistics.median([await first_token(SHORT, 31 * r) for r in range(1, REPEATS + 1)])
        long = statistics.median([await first_token(LONG, 37 * r) for r in range(1, REPEATS + 1)])
    sequence = (many - few) / (MANY - FEW)
    return {
        "step_seconds": round(few - FEW * sequence, 6),
        "decode_sequence_seconds": round(sequence, 6),
        "prefill_token_seconds": round((long - short) / (LONG - SHORT), 6),
        "load_seconds": round(load, 2),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    arguments.add_argument("folder", help="Hugging Face folder (`make model` prints one)")
    options = arguments.parse_args()
    started = time.perf_counter()
    with worker_process(options.folder, options.dtype) as address:
        calibration = asyncio.run(measure(address, started))
    print(json.dumps(calibration, indent=2))


if __name__ == "__main__":
    main()

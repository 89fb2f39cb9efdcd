"""How much workers lose when they share this machine's cores: tokens per second of all together.

The environment reaches the workers: `GOMP_SPINCOUNT=300 python benchmarks/sharing.py FOLDER`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time

import workload as work
from worker_process import generate, ready_worker, worker_process

PROMPT, NEW = 32, 48  # tokens


async def measure(addresses: list[str]) -> float:
    async with contextlib.AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(ready_worker(a)) for a in addresses]
        for worker in workers:
            await generate(worker, work.prompt(1), 8)
        begun = time.perf_counter()
        await asyncio.gather(
            *(
                generate(workers[i % len(workers)], work.prompt(50 + i, PROMPT), NEW)
                for i in range(work.STREAMS)
            )
        )
        return work.STREAMS * NEW / (time.perf_counter() - begun)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", help="Hugging Face folder (`make model` prints one)")
    folder = arguments.parse_args().folder
    for count in (1, 2):
        with contextlib.ExitStack() as stack:
            addresses = [
                stack.enter_context(worker_process(folder, "bfloat16")) for _ in range(count)
            ]
            print(f"{count} workers: {asyncio.run(measure(addresses)):.0f} tok/s")


if __name__ == "__main__":
    main()

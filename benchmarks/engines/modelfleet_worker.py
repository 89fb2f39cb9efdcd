"""Ours: a real worker process, measured over its own gRPC stream: see `workload.Job`."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict
from importlib.metadata import version

import workload as work
from worker_process import generate, ready_worker, worker_process


async def measure(address: str, job: work.Job) -> work.Result:
    async with ready_worker(address) as worker:
        await generate(worker, work.prompt(999_999), 1)
        start = time.perf_counter() - job.started
        await generate(worker, work.prompt(999_998), 16)

        singles = [
            await generate(worker, work.prompt(repeat), work.NEW_TOKENS)
            for repeat in range(job.repeats)
        ]
        total = work.STREAMS * work.NEW_TOKENS
        batched = []
        for repeat in range(job.repeats):
            begun = time.perf_counter()
            await asyncio.gather(
                *(generate(worker, ids, work.NEW_TOKENS) for ids in work.prompts(1 + repeat))
            )
            batched.append(total / (time.perf_counter() - begun))
        begun = time.perf_counter()
        for ids in work.prompts(100):
            await generate(worker, ids, work.NEW_TOKENS)
        sequential = total / (time.perf_counter() - begun)

    return work.Result(
        engine="Modelfleet worker (gRPC)",
        version=version("modelfleet"),
        start_seconds=start,
        ttft_seconds=work.median(job.repeats, lambda r: singles[r].first - singles[r].begun),
        decode_rate=work.median(
            job.repeats, lambda r: (work.NEW_TOKENS - 1) / (singles[r].last - singles[r].first)
        ),
        batched_rate=work.median(job.repeats, lambda r: batched[r]),
        sequential_rate=sequential,
    )


if __name__ == "__main__":
    job = work.Job(**json.loads(sys.argv[1]))
    with worker_process(job.folder, job.dtype) as address:
        result = asyncio.run(measure(address, job))
    print(json.dumps(asdict(result)))

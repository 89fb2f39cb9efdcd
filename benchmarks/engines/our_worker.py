"""Ours: a real worker process, measured over its own gRPC stream: see `workload.Job`."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from importlib.metadata import version

import served
import workload as work
from modelfleet_worker.quantization.scheme import Quantization, Weights
from projections import weight_bytes
from worker_process import generate, ready_worker, worker_process

DTYPES = {"fp32": "float32"}  # of what is not quantized; else bfloat16
WIDTHS = {"bfloat16": 2, "float32": 4}


async def measure(address: str, job: work.Job, begun: float) -> served.Measured:
    async with ready_worker(address) as worker:
        return await served.measure(
            lambda request: generate(worker, request.ids, request.new_tokens), job, begun
        )


def main(job: work.Job) -> None:
    dtype = DTYPES.get(job.weights, "bfloat16")
    weights = Weights(job.weights) if job.weights in ("int8", "int4") else Weights.NONE
    quantization = Quantization(weights=weights)
    flags = ["--weights", weights, "--context-length", str(work.CONTEXT)]

    def bytes_per_weight(module: str, inputs: int) -> float:
        scheme = quantization.scheme_of(module, inputs)
        return scheme.bytes_per_weight if scheme else WIDTHS[dtype]

    begun = time.perf_counter()
    with worker_process(job.folder, dtype, *flags) as address:
        measured = asyncio.run(measure(address, job, begun))
    served.print_result(
        version=version("modelfleet"),
        weight_bytes=weight_bytes(job.folder, bytes_per_weight),
        measured=measured,
    )


if __name__ == "__main__":
    main(work.Job(**json.loads(sys.argv[1])))

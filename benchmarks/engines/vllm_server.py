"""The peer vLLM (CPU build), by its OpenAI-compatible HTTP server: see `workload.Job`.

Two set-ups: `auto`, in which vLLM keeps one core for its scheduler, and `all cores`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable
from typing import Any

import peers
import served
import workload as work
from projections import weight_bytes

MODEL = "bench"


async def measure(port: int, job: work.Job, begun: float) -> served.Measured:
    async with served.client(port) as server:
        await server.healthy("/health")

        def generate(request: work.Request) -> Awaitable[work.Timing]:
            body = {
                "model": MODEL,
                "prompt": request.ids,
                "max_tokens": request.new_tokens,
                "temperature": 0.0,
                "ignore_eos": True,
                "stream": True,
                "return_token_ids": True,
            }
            return server.stream("/v1/completions", body, tokens_after, request.new_tokens)

        return await served.measure(generate, job, begun)


def tokens_after(event: dict[str, Any], before: int) -> int:
    return before + sum(len(choice.get("token_ids") or ()) for choice in event["choices"])


def command(job: work.Job, port: int) -> list[str]:
    # The server's own module: its `vllm` program looks for a package of that name and finds none.
    return [
        *(str(peers.VLLM_PYTHON), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", job.folder, "--served-model-name", MODEL, "--dtype", "bfloat16"),
        *("--max-model-len", str(work.CONTEXT), "--max-num-seqs", str(work.STREAMS)),
        *("--host", "127.0.0.1", "--port", str(port), "--disable-log-stats"),
        "--disable-uvicorn-access-log",
    ]


def environment(setup: str) -> dict[str, str]:
    variables = {
        "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB; every workload fits
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONPATH": "",  # ours is not for it
    }
    if setup == "all cores":
        allowed = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        preloaded = [str(peers.tcmalloc() or ""), str(peers.VLLM_OPENMP)]
        variables |= {
            "VLLM_CPU_OMP_THREADS_BIND": allowed,
            "OMP_NUM_THREADS": str(served.cores()),
            "LD_PRELOAD": ":".join(filter(None, preloaded)),
        }
    return variables


def main(job: work.Job) -> None:
    peers.lend_torch()
    port = served.free_port()
    with served.server(command(job, port), environment(job.setup)) as begun:
        measured = asyncio.run(measure(port, job, begun))
    served.print_result(
        version=peers.VLLM_VERSION,
        weight_bytes=weight_bytes(job.folder, lambda *_: 2),
        measured=measured,
    )


if __name__ == "__main__":
    main(work.Job(**json.loads(sys.argv[1])))

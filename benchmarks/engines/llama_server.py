"""The peer llama.cpp, by its HTTP server: see `workload.Job`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from gguf import GGUFReader

import peers
import served
import workload as work


async def measure(port: int, job: work.Job, begun: float) -> served.Measured:
    async with served.client(port) as server:
        await server.healthy("/health")

        def generate(request: work.Request) -> Awaitable[work.Timing]:
            body = {
                "prompt": request.ids,
                "n_predict": request.new_tokens,
                "temperature": 0.0,
                "top_k": 1,
                "ignore_eos": True,
                "cache_prompt": True,
                "stream": True,
            }
            return server.stream("/completion", body, tokens_after, request.new_tokens)

        return await served.measure(generate, job, begun)


def tokens_after(event: dict[str, Any], _: int) -> int:
    """By the server's own count: events leave out tokens that end within a character."""
    count: int = event["tokens_predicted"]
    return count


def command(model: Path, port: int) -> list[str]:
    threads = str(served.cores())
    return [
        *(str(peers.LLAMA_SERVER), "--model", str(model), "--port", str(port), "--offline"),
        *("--threads", threads, "--threads-batch", threads),
        *("--parallel", str(work.STREAMS), "--ctx-size", str(work.STREAMS * work.CONTEXT)),
    ]


def main(job: work.Job) -> None:
    model = peers.gguf(job.weights)
    port = served.free_port()
    with served.server(command(model, port)) as begun:
        measured = asyncio.run(measure(port, job, begun))
    served.print_result(
        version=peers.LLAMA_VERSION,
        weight_bytes=sum(int(tensor.n_bytes) for tensor in GGUFReader(model).tensors),
        measured=measured,
    )


if __name__ == "__main__":
    main(work.Job(**json.loads(sys.argv[1])))

"""Ours: a real worker process, measured over its own gRPC stream: see `workload.Job`."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import grpc

import workload as work
from modelfleet_proto import worker_pb2, worker_pb2_grpc

MODEL = "bench/smollm2"
DTYPES = {"bfloat16": "BFloat16", "float32": "Float32"}


async def generate(
    worker: worker_pb2_grpc.WorkerAsyncStub, ids: list[int], new: int
) -> tuple[float, float, float]:
    """Returns when the request began, its first token came and its last one came (seconds)."""
    begun = time.perf_counter()
    first = last = 0.0
    request = worker_pb2.GenerateRequest(
        request_id=uuid.uuid4().hex,
        model=MODEL,
        prompt_token_ids=worker_pb2.TokenIds(ids=ids),
        sampling=worker_pb2.Sampling(temperature=0, top_p=1),
        stop=worker_pb2.StopConditions(max_tokens=new, ignore_eos=True),
    )
    count = 0
    async for response in worker.Generate(request):
        if response.HasField("tokens"):
            count += len(response.tokens.ids)
            last = time.perf_counter()
            first = first or last
    assert count == new, (count, new)
    return begun, first, last


async def measure(address: str, job: work.Job) -> work.Result:
    repeats = job.repeats
    async with grpc.aio.insecure_channel(address) as channel:
        worker = worker_pb2_grpc.WorkerStub(channel)
        async for stats in worker.WatchStats(worker_pb2.StatsRequest()):
            if stats.state == worker_pb2.WORKER_STATE_READY:
                break
            assert stats.state != worker_pb2.WORKER_STATE_FAILED, stats.message
        await generate(worker, work.prompt(999_999), 1)
        start = time.perf_counter() - job.started
        await generate(worker, work.prompt(999_998), 16)

        singles = [
            await generate(worker, work.prompt(repeat), work.NEW_TOKENS)
            for repeat in range(repeats)
        ]
        total = work.STREAMS * work.NEW_TOKENS
        batched = []
        for repeat in range(repeats):
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
        ttft_seconds=work.median(repeats, lambda r: singles[r][1] - singles[r][0]),
        decode_rate=work.median(
            repeats, lambda r: (work.NEW_TOKENS - 1) / (singles[r][2] - singles[r][1])
        ),
        batched_rate=work.median(repeats, lambda r: batched[r]),
        sequential_rate=sequential,
    )


def main(job: work.Job) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        address = Path(scratch) / "address"
        model = ["--model", MODEL, "--source", f"file://{job.folder}", "--dtype", DTYPES[job.dtype]]
        listen = ["--listen", "127.0.0.1:0", "--worker-id", "bench", "--address-file", str(address)]
        worker = subprocess.Popen(
            [sys.executable, "-m", "modelfleet_worker", *listen, "--device", "cpu", *model],
            stdout=sys.stderr,
        )
        try:
            while not address.exists():
                assert worker.poll() is None, "the worker ended before it listened"
                time.sleep(0.01)
            result = asyncio.run(measure(address.read_text().strip(), job))
        finally:
            worker.terminate()
            worker.wait()
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main(work.Job(**json.loads(sys.argv[1])))

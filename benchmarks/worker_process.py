"""A real worker process, and one request to it over its own gRPC stream."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc

import workload as work
from modelfleet_gateway.routing.calls import SharedStream
from modelfleet_proto import worker_pb2, worker_pb2_grpc

MODEL = "bench/smollm2"
DTYPES = {"bfloat16": "BFloat16", "float32": "Float32"}


@contextlib.contextmanager
def worker_process(folder: str, dtype: str, *flags: str) -> Iterator[str]:
    """Its address, as soon as it listens; it loads the model from then on."""
    with tempfile.TemporaryDirectory() as scratch:
        address = Path(scratch) / "address"
        model = ["--model", MODEL, "--source", f"file://{folder}", "--dtype", DTYPES[dtype]]
        listen = ["--listen", "127.0.0.1:0", "--worker-id", "bench", "--address-file", str(address)]
        worker = subprocess.Popen(
            [sys.executable, "-m", "modelfleet_worker", *listen, "--device", "cpu", *model, *flags],
            stdout=sys.stderr,
        )
        try:
            while not address.exists():
                assert worker.poll() is None, "the worker ended before it listened"
                time.sleep(0.01)
            yield address.read_text().strip()
        finally:
            worker.terminate()
            worker.wait()


@contextlib.asynccontextmanager
async def ready_worker(address: str) -> AsyncIterator[worker_pb2_grpc.WorkerAsyncStub]:
    """Its stub, once the model is loaded."""
    async with grpc.aio.insecure_channel(address) as channel:
        worker = worker_pb2_grpc.WorkerStub(channel)
        async for stats in worker.WatchStats(worker_pb2.StatsRequest()):
            if stats.state == worker_pb2.WORKER_STATE_READY:
                break
            assert stats.state != worker_pb2.WORKER_STATE_FAILED, stats.message
        yield worker


def request_of(ids: list[int], new_tokens: int, model: str = MODEL) -> worker_pb2.GenerateRequest:
    """For a greedy answer of exactly so many tokens."""
    return worker_pb2.GenerateRequest(
        request_id=uuid.uuid4().hex,
        model=model,
        prompt_token_ids=worker_pb2.TokenIds(ids=ids),
        sampling=worker_pb2.Sampling(temperature=0, top_p=1),
        stop=worker_pb2.StopConditions(max_tokens=new_tokens, ignore_eos=True),
    )


async def generate(
    worker: worker_pb2_grpc.WorkerAsyncStub, ids: list[int], new_tokens: int, model: str = MODEL
) -> work.Timing:
    """One greedy answer of exactly so many tokens."""
    begun = time.perf_counter()
    first = last = 0.0
    count = 0
    async for response in worker.Generate(request_of(ids, new_tokens, model)):
        if response.HasField("tokens"):
            count += len(response.tokens.ids)
            last = time.perf_counter()
            first = first or last
    assert count == new_tokens, (count, new_tokens)
    return work.Timing(begun, first, last)


async def generate_shared(stream: SharedStream, ids: list[int], new_tokens: int) -> work.Timing:
    """The same over a stream that all requests share, as gateways ask."""
    begun = time.perf_counter()
    first = last = 0.0
    count = 0
    request = request_of(ids, new_tokens).SerializeToString()
    call = stream.start(lambda: [request], lambda _: None)
    while not call.has_ended or count < new_tokens:
        for event in await call.read():
            if isinstance(event, worker_pb2.Tokens):
                count += len(event.ids)
                last = time.perf_counter()
                first = first or last
    assert count == new_tokens, (count, new_tokens)
    return work.Timing(begun, first, last)

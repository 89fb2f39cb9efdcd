"""A worker in a container's memory limit: what it admits fits, and what cannot fit is refused."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from memory_group import MemoryGroup, memory_group, peak, reset_peak
from modelfleet_proto import worker_pb2 as pb
from modelfleet_proto import worker_pb2_grpc
from modelfleet_worker.devices.host import usable_cores
from modelfleet_worker.loading.working_memory import ServingLimits, Widths, working_memory

pytestmark = pytest.mark.integration

MODEL = "default/model"
SMOLLM2 = Path("~/.cache/modelfleet/models/HuggingFaceTB/SmolLM2-135M-Instruct").expanduser()
LIMIT = 1 << 30
CACHE_TOKEN = 2 * 30 * 3 * 64 * 2  # bytes: keys and values, layers, KV heads, head, bfloat16
WIDTHS = Widths(
    hidden=576, inner=1536, query=576, key=192, head_dim=64, vocab=49152, itemsize=2, native=False
)
STREAMS, PROMPT, ANSWER = 16, 448, 12  # tokens
ENGINE = [f"--context-length={PROMPT + ANSWER}", f"--max-sequences={STREAMS}"]


@contextlib.contextmanager
def worker(
    group: MemoryGroup, tmp_path: Path, *arguments: str
) -> Iterator[tuple[worker_pb2_grpc.WorkerStub, subprocess.Popen[bytes]]]:
    file = tmp_path / "address"
    command = [sys.executable, "-m", "modelfleet_worker", "--address-file", str(file)]
    command += ["--model", MODEL, "--source", SMOLLM2.as_uri(), *ENGINE, *arguments]
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen([*group.entering, *command], stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not file.exists():
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with grpc.insecure_channel(file.read_text()) as channel:
            yield worker_pb2_grpc.WorkerStub(channel), process
        assert process.poll() is None, f"the worker ended with {process.returncode}"
    finally:
        process.kill()
        process.wait()
        log.close()


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    with memory_group(LIMIT) as made:
        if made is None:
            pytest.skip("no memory cgroup can be made here: it takes root on Linux")
        yield made


def stats_when(stub: worker_pb2_grpc.WorkerStub, holds) -> pb.Stats:
    deadline = time.monotonic() + 120
    while not holds(stats := stub.GetStats(pb.StatsRequest(), timeout=30)):
        assert time.monotonic() < deadline, stats
        time.sleep(0.1)
    return stats


def test_the_worst_load_that_is_admitted_fits(group: MemoryGroup, tmp_path: Path):
    """All slots, long prompts, 20 logprobs a token, and clients that read nothing until the end."""
    with worker(group, tmp_path) as (stub, running):
        ready = stats_when(stub, lambda s: s.state != pb.WORKER_STATE_LOADING)
        assert ready.state == pb.WORKER_STATE_READY, ready.message
        before = reset_peak(running.pid)
        most = STREAMS * (PROMPT + ANSWER) * CACHE_TOKEN + working_memory(
            WIDTHS,
            ServingLimits(max_sequences=STREAMS, max_batch_tokens=2048, threads=usable_cores()),
            PROMPT + ANSWER,
        )
        numbers = random.Random(0)
        calls = [
            stub.Generate(
                pb.GenerateRequest(
                    model=MODEL,
                    request_id=str(i),
                    prompt_token_ids=pb.TokenIds(
                        ids=[numbers.randrange(100, 49000) for _ in range(PROMPT)]
                    ),
                    stop=pb.StopConditions(max_tokens=ANSWER, ignore_eos=True),
                    logprobs=pb.Logprobs(enabled=True, top=20),
                    sampling=pb.Sampling(temperature=1.0, top_p=0.9, repetition_penalty=1.1),
                )
            )
            for i in range(STREAMS)
        ]
        stats_when(stub, lambda s: s.completion_tokens == STREAMS * ANSWER)
        taken = peak(running.pid) - before
        print(f"{taken >> 20} MiB taken by the load, {most >> 20} reckoned with")
        assert taken < most
        for call in calls:
            replies = list(call)
            tokens = [token for reply in replies for token in reply.tokens.ids]
            logprobs = [p for reply in replies for p in reply.tokens.logprobs]
            assert len(tokens) == len(logprobs) == ANSWER
            assert all(len(p.top) == 20 for p in logprobs)


def test_a_cache_that_leaves_no_room_to_compute_is_refused_with_the_numbers(
    group: MemoryGroup, tmp_path: Path
):
    with worker(group, tmp_path, "--max-sequences=64", "--kv-cache-memory=600Mi") as (stub, _):
        failed = stats_when(stub, lambda s: s.state != pb.WORKER_STATE_LOADING)
        assert failed.state == pb.WORKER_STATE_FAILED
        assert "to compute with are" in failed.message
        assert "GiB of memory are available: lower kvCacheMemory" in failed.message

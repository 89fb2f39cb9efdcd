"""Embeddings of 32 texts of 128 tokens: our worker, sentence-transformers, llama.cpp's server.

`make model` and `python benchmarks/peers.py` first. sentence-transformers is taken from a folder:
`uv pip install --no-deps --target FOLDER sentence-transformers scikit-learn scipy joblib
threadpoolctl narwhals cloudpickle`, then `python benchmarks/embeddings.py --packages FOLDER`.
llama.cpp needs its own format (`--gguf`): its convert_hf_to_gguf.py makes one of our folder.
With `MODELFLEET_ISA=avx2` ours and llama.cpp are held to AVX2.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc

import peers
from modelfleet_proto import worker_pb2, worker_pb2_grpc
from modelfleet_proto.handshake import call_metadata

TEXTS, TOKENS = 32, 128
MODEL = "default/minilm"
# Reads lists of texts as JSON lines, and answers with the seconds that each took.
SENTENCE_TRANSFORMERS = """
import json, sys, time
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
print("ready", flush=True)
for line in sys.stdin:
    texts = json.loads(line)
    began = time.perf_counter()
    model.encode(texts, batch_size=32)
    print(time.perf_counter() - began, flush=True)
"""

Measure = Callable[[list[str]], float]  # seconds


def texts_of(folder: Path) -> Iterator[list[str]]:
    """Batches of texts that the tokenizer makes TOKENS of, two of them special ones."""
    words = [word for word in (folder / "vocab.txt").read_text().split() if word.isalpha()]
    rng = random.Random(1)
    while True:
        yield [" ".join(rng.choices(words, k=TOKENS - 2)) for _ in range(TEXTS)]


@contextmanager
def ours(folder: Path, *flags: str) -> Iterator[Measure]:
    """Over gRPC, as gateways ask."""
    address = Path(f"/tmp/embeddings-{os.getpid()}-{len(flags)}.address")
    command = ["modelfleet", "worker", "--model", MODEL, "--source", f"file://{folder}", *flags]
    worker = subprocess.Popen(
        [*command, "--address-file", str(address)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not address.exists():
            time.sleep(0.1)
        with grpc.insecure_channel(address.read_text()) as channel:
            stub = worker_pb2_grpc.WorkerStub(channel)
            metadata = call_metadata("gateway")
            ready = worker_pb2.WORKER_STATE_READY
            while (
                stats := stub.GetStats(worker_pb2.StatsRequest(), metadata=metadata)
            ).state != ready:
                time.sleep(0.1)
            print(f"ours: {stats.computed_by}", file=sys.stderr)

            def measure(texts: list[str]) -> float:
                inputs = [worker_pb2.EmbedInput(text=text) for text in texts]
                request = worker_pb2.EmbedRequest(model=MODEL, inputs=inputs)
                began = time.perf_counter()
                answer = stub.Embed(request, metadata=metadata)
                seconds = time.perf_counter() - began
                assert {one.tokens for one in answer.embeddings} == {TOKENS}
                return seconds

            yield measure
    finally:
        worker.kill()
        worker.wait()
        address.unlink(missing_ok=True)


@contextmanager
def sentence_transformers(folder: Path, packages: Path) -> Iterator[Measure]:
    """In a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", SENTENCE_TRANSFORMERS, str(folder)],
        env=os.environ | {"PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"

        def measure(texts: list[str]) -> float:
            print(json.dumps(texts), file=process.stdin, flush=True)
            return float(process.stdout.readline())

        yield measure
    finally:
        process.kill()
        process.wait()


@contextmanager
def llama_server(gguf: Path) -> Iterator[Measure]:
    """Over HTTP, which is all it has."""
    port = 18_762
    most = str(TEXTS * TOKENS)
    flags = ["--embeddings", "--pooling", "mean", "-c", most, "-b", most, "-ub", most, "-np", "32"]
    threads = str(len(os.sched_getaffinity(0)))
    server = subprocess.Popen(
        [
            *(peers.LLAMA_SERVER, "-m", gguf, *flags, "-t", threads, "-tb", threads),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        try:
            with urllib.request.urlopen(f"{url}/health") as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def measure(texts: list[str]) -> float:
        body = json.dumps({"input": texts, "encoding_format": "base64"}).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{url}/v1/embeddings", body, headers)
        began = time.perf_counter()
        with urllib.request.urlopen(request) as response:
            answer = response.read()
        seconds = time.perf_counter() - began
        assert len(json.loads(answer)["data"]) == len(texts)
        return seconds

    try:
        while not is_up():
            assert server.poll() is None
            time.sleep(0.2)
        yield measure
    finally:
        server.kill()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--packages", type=Path)
    parser.add_argument("--gguf", type=Path, nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=12)
    asked = parser.parse_args()
    batches = texts_of(asked.folder)
    with ExitStack() as stack:
        engines = {
            "ours, Auto": stack.enter_context(ours(asked.folder)),
            "ours, BFloat16": stack.enter_context(ours(asked.folder, "--dtype", "BFloat16")),
        }
        if asked.packages:
            peer = sentence_transformers(asked.folder, asked.packages)
            engines["sentence-transformers"] = stack.enter_context(peer)
        for gguf in asked.gguf:
            engines[f"llama.cpp, {gguf.stem}"] = stack.enter_context(llama_server(gguf))
            break  # of one port
        found: dict[str, list[float]] = {name: [] for name in engines}
        for number in range(asked.rounds + 2):
            texts = next(batches)
            for name, measure in engines.items():
                seconds = measure(texts)
                if number >= 2:  # the first ones take memory
                    found[name].append(seconds)
    print(f"| {TEXTS} texts of {TOKENS} tokens | ms, median | best | texts/s | ours, Auto, is |")
    print("|---|---|---|---|---|")
    first = statistics.median(found["ours, Auto"])
    for name, seconds in found.items():
        middle = statistics.median(seconds)
        print(
            f"| {name} | {middle * 1000:.0f} | {min(seconds) * 1000:.0f} | {TEXTS / middle:.0f} |"
            f" {middle / first:.2f}x |"
        )


if __name__ == "__main__":
    main()

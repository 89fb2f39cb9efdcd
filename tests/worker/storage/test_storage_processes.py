"""Real worker processes with real servers: one cache, kills, full disks, and what Stats tell."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from hub_double import Hub, serve_hub
from modelfleet_proto import worker_pb2 as pb
from modelfleet_proto import worker_pb2_grpc
from slow_network import slow_line
from storage_servers import Store, s3_server
from tiny_model import write_tiny_model

pytestmark = pytest.mark.integration

MODEL = "default/tiny"
SOURCE = "s3://models/tiny"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    cache = Path(os.environ.get("MODELFLEET_CACHE", Path.home() / ".cache/modelfleet"))
    tokenizer = cache / "models/HuggingFaceTB/SmolLM2-135M-Instruct"
    return write_tiny_model(tmp_path_factory.mktemp("tiny"), tokenizer)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> Iterator[Store]:
    with s3_server(tmp_path_factory.mktemp("s3")) as store:
        client = store.client()
        client.create_bucket(Bucket="models")
        for name, content in files.items():
            client.put_object(Bucket="models", Key=f"tiny/{name}", Body=content)
        for name, content in (files | {"model.safetensors": b"x" * 1000}).items():
            client.put_object(Bucket="models", Key=f"other/{name}", Body=content)
        yield store


class Process:
    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process = process
        self.channel = grpc.insecure_channel(address)
        self.stub = worker_pb2_grpc.WorkerStub(self.channel)

    def stats(self) -> pb.Stats:
        return self.stub.GetStats(pb.StatsRequest(), wait_for_ready=True, timeout=20)

    def when(self, holds: Callable[[pb.Stats], bool], what: str) -> pb.Stats:
        """The first Stats of which it holds."""
        until = time.monotonic() + 120
        while not holds(stats := self.stats()):
            assert time.monotonic() < until, f"waited in vain for {what}: {stats}"
            time.sleep(0.02)
        return stats

    def ready(self) -> pb.Stats:
        stats = self.when(is_settled, "the model")
        assert stats.state == pb.WORKER_STATE_READY, stats.message
        return stats

    def failed(self) -> str:
        stats = self.when(is_settled, "the failure")
        assert stats.state == pb.WORKER_STATE_FAILED
        return stats.message

    def answers(self) -> bool:
        stop = pb.StopConditions(max_tokens=3, ignore_eos=True)
        call = self.stub.Generate(pb.GenerateRequest(model=MODEL, prompt="Hello", stop=stop))
        return list(call)[-1].finished.completion_tokens == 3


def is_settled(stats: pb.Stats) -> bool:
    return stats.state in (pb.WORKER_STATE_READY, pb.WORKER_STATE_FAILED)


def fetches(percent: float) -> Callable[[pb.Stats], bool]:
    return lambda stats: stats.load.phase == "Download" and stats.load.percent > percent


@contextlib.contextmanager
def worker(
    folder: Path, cache: Path, source: str = SOURCE, **environment: str
) -> Iterator[Process]:
    folder.mkdir(parents=True, exist_ok=True)
    address = folder / "address"
    log = (folder / "log").open("w")
    flags = ["--device", "cpu", "--model", MODEL, "--source", source, "--kv-cache-memory", "64Mi"]
    process = subprocess.Popen(
        [sys.executable, "-m", "modelfleet_worker", "--address-file", str(address), *flags],
        stderr=log,
        stdout=log,
        env=os.environ
        | {"MODELFLEET_CACHE": str(cache), "HF_HOME": str(cache / "hf"), "HF_TOKEN": ""}
        | environment,
    )
    try:
        until = time.monotonic() + 60
        while not address.exists():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until
            time.sleep(0.02)
        running = Process(process, address.read_text())
        yield running
        running.channel.close()
    finally:
        process.kill()
        process.wait()
        log.close()


def test_two_workers_of_a_node_fetch_a_model_once_and_both_tell_its_progress(
    tmp_path: Path, store: Store, files: dict[str, bytes]
):
    size = sum(map(len, files.values()))
    with slow_line(store.address, pace=size / 8) as line, contextlib.ExitStack() as stack:
        settings = store.environment | {"AWS_ENDPOINT_URL": line.url}
        workers = [
            stack.enter_context(worker(tmp_path / name, tmp_path / "cache", **settings))
            for name in ("a", "b")
        ]
        seen = [w.when(fetches(30), "a third of the download") for w in workers]
        assert all(stats.load.eta > time.time() for stats in seen)
        digests = {w.ready().model_digest for w in workers}
        assert len(digests) == 1
        assert all(w.answers() for w in workers)
        assert size <= line.sent < 1.05 * size


def test_another_worker_goes_on_where_a_killed_one_stopped(
    tmp_path: Path, store: Store, files: dict[str, bytes]
):
    size = sum(map(len, files.values()))
    with slow_line(store.address, pace=size / 8) as line:
        settings = store.environment | {"AWS_ENDPOINT_URL": line.url}
        with (
            worker(tmp_path / "a", tmp_path / "cache", **settings) as first,
            worker(tmp_path / "b", tmp_path / "cache", **settings) as second,
        ):
            first.when(fetches(25), "a third of the download")
            second.when(fetches(25), "the same, told by the one that waits")
            # Whichever fetches: the other one waits for it.
            fetcher, waiter = (
                (first, second) if "fetching" in log_of(tmp_path / "a") else (second, first)
            )
            fetcher.process.send_signal(signal.SIGKILL)
            fetcher.process.wait()
            assert waiter.when(fetches(0), "the rest").load.percent > 25
            assert waiter.ready().state == pb.WORKER_STATE_READY
            assert waiter.answers()
        assert line.sent < 1.25 * size  # what was on its way when it was killed came twice


def log_of(folder: Path) -> str:
    return (folder / "log").read_text()


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_model_that_is_too_big_for_the_disk_is_refused_before_it_is_fetched(
    tmp_path: Path, store: Store
):
    with small_disk(tmp_path / "cache", "4m"):
        with worker(tmp_path / "a", tmp_path / "cache", **store.environment) as process:
            assert "to fetch, and the disk is full: 4.19 MB are free at" in process.failed()
        assert not list((tmp_path / "cache").rglob("partial"))


def test_a_disk_that_fills_up_meanwhile_costs_no_other_model(tmp_path: Path, store: Store):
    cache = tmp_path / "cache"
    with small_disk(cache, "24m"), slow_line(store.address, pace=2e6) as line:
        with worker(tmp_path / "o", cache, "s3://models/other", **store.environment) as other:
            assert "safetensors" in other.failed()  # it is no model, but it was fetched
        settings = store.environment | {"AWS_ENDPOINT_URL": line.url}
        with worker(tmp_path / "a", cache, **settings) as process:
            process.when(fetches(10), "the download")
            with contextlib.suppress(OSError), (cache / "of another process").open("wb") as file:
                while True:
                    file.write(b"x" * 100_000)
            assert "the disk is full" in process.failed()
            assert "free space there, or give the cache a bigger volume" in process.failed()
        assert not list(cache.rglob("partial"))
        assert len(list(cache.glob("remote/*other*/*/model/model.safetensors"))) == 1


def test_what_only_the_user_can_mend_is_told_in_stats(tmp_path: Path, store: Store):
    settings = store.environment | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    with worker(tmp_path / "s3", tmp_path / "cache", **settings) as process:
        assert "SignatureDoesNotMatch" in process.failed()
    names = ("config.json", "tokenizer.json", "model.safetensors")
    gated = Hub(dict.fromkeys(names, b"{}"), token="secret", gated=True)
    with (
        serve_hub(gated),
        worker(tmp_path / "hf", tmp_path / "cache", "hf://owner/name", HF_ENDPOINT=gated.url) as w,
    ):
        message = w.failed()
        assert "gated: accept its licence" in message
        assert "spec.model.tokenSecretRef" in message


def test_a_worker_without_a_model_loads_no_client_of_any_store(tmp_path: Path):
    code = (
        "import sys; from modelfleet_worker import cli; "
        "from modelfleet_worker.loading import device_loaders; "
        "found = {'boto3', 'botocore', 'huggingface_hub', 'httpx2', 'torch'} & sys.modules.keys(); "
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_limit_that_is_no_size_ends_the_worker_with_one_line(tmp_path: Path):
    ended = subprocess.run(
        [sys.executable, "-m", "modelfleet_worker", "--device", "cpu"],
        env=os.environ | {"MODELFLEET_CACHE_LIMIT": "lots"},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2
    assert "MODELFLEET_CACHE_LIMIT: expected a size like 512Mi" in ended.stderr

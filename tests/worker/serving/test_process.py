"""`python -m modelfleet_worker` as an operator starts it: flags, signals, exit codes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from hub_double import Hub, serve_hub
from modelfleet_proto import worker_pb2 as pb
from modelfleet_proto import worker_pb2_grpc
from modelfleet_worker.devices.native import library
from prepare_smollm2 import model_folder
from tiny_model import write_tiny_model

pytestmark = pytest.mark.integration

MODEL = "default/model"
PACED = ["--device", "paced", "--model", MODEL, "--source", "hf://a/b"]
LONG = pb.StopConditions(max_tokens=5000, ignore_eos=True)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "modelfleet_worker", *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), check=False, capture_output=True, text=True, timeout=30
    )


def wait_until(holds: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


class Process:
    """A worker process and a client of it."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process = process
        self.address = address
        self.channel = grpc.insecure_channel(address)
        self.stub = worker_pb2_grpc.WorkerStub(self.channel)

    def stats(self) -> pb.Stats:
        return self.stub.GetStats(pb.StatsRequest(), wait_for_ready=True, timeout=10)

    def wait_for(self, state: int) -> pb.Stats:
        wait_until(lambda: self.stats().state == state)
        return self.stats()

    def generate(self, stop: pb.StopConditions):
        return self.stub.Generate(pb.GenerateRequest(model=MODEL, prompt="Wake up", stop=stop))


@contextlib.contextmanager
def worker(
    tmp_path: Path, *arguments: str, ready: bool = True, stderr: Any = subprocess.PIPE
) -> Iterator[Process]:
    file = tmp_path / "address"
    started = subprocess.Popen(
        command("--address-file", str(file), *arguments), stderr=stderr, text=True
    )
    try:
        wait_until(lambda: file.exists() or started.poll() is not None)
        assert file.exists(), started.stderr and started.stderr.read()
        process = Process(started, file.read_text())
        if ready:
            process.wait_for(pb.WORKER_STATE_READY)
        yield process
        process.channel.close()
    finally:
        started.kill()
        started.communicate()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nonsense"], "--nonsense"),
        (["--listen", "8080"], "'--listen': expected HOST:PORT, like 127.0.0.1:8080"),
        (["--listen", "203.0.113.1:80", "--device", "paced"], "cannot listen on 203.0.113.1:80"),
        (["--model", "default/a"], "--model and --source go together"),
        (["--model", "a", "--source", "hf://a/b"], "expected the model's name as namespace/name"),
        (["--model", "a/b", "--source", "models/x"], "expected a source hf://OWNER/NAME"),
        (["--model", "a/b", "--source", "file://~/x"], "expected file:///PATH"),
        ([*PACED, "--dtype", "int3"], "'int3' is not one of"),
        ([*PACED, "--kv-cache-memory", "2gb"], "expected a size like 512Mi"),
        ([*PACED, "--context-length", "0"], "greater than or equal to 1"),
        (["--calibration", "/gone.json", "--device", "paced"], "/gone.json"),
        (["--calibration", "/gone.json", "--device", "cpu"], "--calibration is for"),
        (["--preload", "--model", "a/b", "--source", "hf://a/b"], "--preload is for a worker that"),
        ([*PACED, "--address-file", "/gone/address"], "cannot write --address-file"),
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_code_2(arguments: list[str], message: str):
    ended = run(*arguments)
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert ended.returncode == 2
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]


def test_the_environment_may_choose_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MODELFLEET_DEVICE", "paced")
    with worker(tmp_path, *PACED[2:]) as process:
        assert process.stats().state == pb.WORKER_STATE_READY


@pytest.mark.parametrize("flags", [("-v",), ()])
def test_verbose_tells_each_request(tmp_path: Path, flags: tuple[str, ...]):
    with worker(tmp_path, *PACED, "--worker-id=w1", "--log-format=json", *flags) as process:
        call = process.generate(pb.StopConditions(max_tokens=3, ignore_eos=True))
        assert list(call)[-1].finished.completion_tokens == 3
        process.process.send_signal(signal.SIGTERM)
        _, said = process.process.communicate(timeout=10)
    lines = [json.loads(line) for line in said.splitlines()]
    assert {line["worker"] for line in lines} == {"w1"}
    request = [line for line in lines if line["level"] == "debug" and "request_id" in line]
    if not flags:
        assert request == []
        return
    assert [line["event"] for line in request] == ["admitted", "finished"]
    assert request[1]["completion_tokens"] == 3


def test_help_is_quick_and_needs_no_torch():
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "modelfleet_worker", "--help"],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 0
    assert "--kv-cache-memory" in ended.stdout
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert not imported & {"torch", "transformers"}


COMPILED = pytest.mark.skipif(
    library.load_library() is None, reason="needs the compiled step for bfloat16"
)


@COMPILED
def test_a_worker_of_the_compiled_step_imports_neither_torch_nor_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """From its start to the last token of a chat that is drawn, penalized and has logprobs."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    log = tmp_path / "stderr"
    model = ["--model", MODEL, "--source", model_folder().as_uri()]
    request = pb.GenerateRequest(
        model=MODEL,
        chat=pb.Chat(
            messages=[pb.ChatMessage(role="user", content="Hi")], add_generation_prompt=True
        ),
        sampling=pb.Sampling(temperature=1, top_p=0.9, frequency_penalty=0.5),
        logprobs=pb.Logprobs(enabled=True, top=3),
        stop=pb.StopConditions(max_tokens=5, ignore_eos=True),
    )
    with log.open("w") as stderr, worker(tmp_path, *model, stderr=stderr) as process:
        answers = list(process.stub.Generate(request))
        assert answers[-1].finished.completion_tokens == 5
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(timeout=10) == 0
    imported = {line.rpartition("|")[2].strip() for line in log.read_text().splitlines()}
    assert "tokenizers" in imported
    assert not {name.partition(".")[0] for name in imported} & {"torch", "transformers"}


def test_a_paced_worker_imports_no_torch(tmp_path: Path):
    with worker(tmp_path, *PACED) as process:
        maps = Path(f"/proc/{process.process.pid}/maps").read_text()
        assert "torch" not in maps


@pytest.mark.parametrize("preload", [True, False])
def test_a_warm_standby_has_everything_but_the_weights(tmp_path: Path, preload: bool):
    with worker(tmp_path, *(["--preload"] if preload else []), ready=False) as process:
        maps = Path(f"/proc/{process.process.pid}/maps")
        if preload:
            assert process.process.stderr is not None
            lines = iter(process.process.stderr.readline, "")
            assert any('"preloaded"' in line for line in lines)
        assert ("libtorch" in maps.read_text()) is (preload and library.load_library() is None)
        assert ("kernels/native-" in maps.read_text()) <= preload
        assert process.stats().state == pb.WORKER_STATE_STANDBY
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(timeout=10) == 0


def test_a_standby_fetches_models_ahead_and_loads_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    files = write_tiny_model(tmp_path / "tiny", model_folder())
    monkeypatch.setenv("MODELFLEET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    with serve_hub(Hub(files)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("MODELFLEET_ALLOWED_ENDPOINTS", hub.url.removeprefix("http://"))
        ahead = ["--fetch", "hf://owner/name", "--fetch", "hf://owner/absent"]
        with worker(tmp_path, "--preload", *ahead, ready=False) as process:
            assert process.process.stderr is not None
            lines = iter(process.process.stderr.readline, "")
            assert any('"fetched ahead"' in line for line in lines)
            assert any('"not fetched ahead"' in line for line in lines)
            assert weights(hub) == 1
            spec = pb.ModelSpec(model=MODEL, source="hf://owner/name", dtype="BFloat16")
            process.stub.LoadModel(pb.LoadModelRequest(spec=spec))
            process.wait_for(pb.WORKER_STATE_READY)
            assert weights(hub) == 1


def weights(hub: Hub) -> int:
    """How often they were asked for."""
    return sum("model.safetensors" in request and "GET" in request for request in hub.requests)


def test_sigterm_lets_running_requests_finish_and_exits_0(tmp_path: Path):
    with worker(tmp_path, *PACED) as process:
        watch = process.stub.WatchStats(pb.StatsRequest())
        call = process.generate(pb.StopConditions(max_tokens=60, ignore_eos=True))
        assert next(call).HasField("accepted")
        process.process.send_signal(signal.SIGTERM)
        assert list(call)[-1].finished.completion_tokens == 60
        assert list(watch)[-1].state == pb.WORKER_STATE_DRAINING  # ended, not broken
        assert process.process.wait(timeout=10) == 0
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.process.pid, 0)
        pytest.fail("the process is still there")


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_hands_over_at_once(tmp_path: Path, second: signal.Signals):
    with worker(tmp_path, *PACED, "--drain-timeout", "600") as process:
        call = process.generate(LONG)
        assert next(call).HasField("accepted")
        process.process.send_signal(signal.SIGTERM)
        process.wait_for(pb.WORKER_STATE_DRAINING)
        process.process.send_signal(second)
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "handed over" in caught.value.details()
        assert process.process.wait(timeout=10) == 0


def test_the_drain_timeout_bounds_the_end(tmp_path: Path):
    with worker(tmp_path, *PACED, "--drain-timeout", "0.2") as process:
        call = process.generate(LONG)
        assert next(call).HasField("accepted")
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(timeout=10) == 0


def test_a_signal_while_loading_ends_it(tmp_path: Path):
    calibration = tmp_path / "slow.json"
    calibration.write_text('{"load_seconds": 600}')
    with worker(tmp_path, *PACED, "--calibration", str(calibration), ready=False) as process:
        process.wait_for(pb.WORKER_STATE_LOADING)
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(timeout=10) == 0


def test_a_second_worker_on_a_taken_port_says_so(tmp_path: Path):
    with worker(tmp_path, "--device", "paced", ready=False) as process:
        ended = run("--device", "paced", "--listen", process.address)
        assert ended.returncode == 2
        assert f"cannot listen on {process.address}" in ended.stderr


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", "expected *.safetensors weights"),
        ("pytorch_model.bin", "pickled weights (pytorch_model.bin)"),
    ],
)
def test_a_folder_that_cannot_be_served_is_told_in_stats(tmp_path: Path, file: str, message: str):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / file).write_text("{}")
    flags = ["--device", "cpu", "--model", MODEL, "--source", folder.as_uri()]
    with worker(tmp_path, *flags, ready=False) as process:
        stats = process.wait_for(pb.WORKER_STATE_FAILED)
        assert message in stats.message
        assert process.process.poll() is None  # it stays, to tell it
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(timeout=10) == 0


def test_a_worker_dies_with_its_parent(tmp_path: Path):
    file = tmp_path / "address"
    arguments = command("--device", "paced", "--die-with-parent", "--address-file", str(file))
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import subprocess; p = subprocess.Popen({arguments!r});"
            "print(p.pid, flush=True); p.wait()",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    wait_until(file.exists)
    parent.kill()
    parent.communicate()
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in state_of(pid))


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"

"""`modelfleet up` with real processes on the paced device: it only takes time."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
import yaml

from certificates import self_signed
from clients import tls
from local_fleet import SMOLLM2, Fleet, eventually, free_port, manifest
from modelfleet_proto import worker_pb2
from modelfleet_proto.worker_pb2_grpc import WorkerStub

pytestmark = pytest.mark.integration

Start = Callable[..., Fleet]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(manifest(...), "--flag")`; returns when the gateway is ready."""
    fleets: list[Fleet] = []
    calibration = tmp_path / "calibration.json"
    calibration.write_text('{"load_seconds": 0.2}')

    def begin(*manifests_and_flags, wait: bool = True) -> Fleet:
        flags = [flag for flag in manifests_and_flags if isinstance(flag, str)]
        file, port = tmp_path / f"{len(fleets)}.yaml", free_port()
        file.write_text(
            yaml.safe_dump_all([m for m in manifests_and_flags if not isinstance(m, str)])
        )
        state, log = tmp_path / f"state-{len(fleets)}", tmp_path / f"log-{len(fleets)}"
        place = ["--port", str(port), "--state-dir", str(state)]
        if "--device" not in flags:
            place += ["--device", "paced", "--calibration", str(calibration)]
        with log.open("wb") as output:
            up = psutil.Popen(
                ["modelfleet", "up", str(file), *place, *flags],
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        fleet = Fleet(up=up, endpoint=f"http://127.0.0.1:{port}", state=state, log=log)
        fleets.append(fleet)
        if wait:
            eventually("the gateway is ready", fleet.gateway_is_ready)
        return fleet

    yield begin
    try:
        for fleet in fleets:
            fleet.stop()
    finally:
        for fleet in fleets:
            fleet.end_for_good()


def sleepy(**scaling):
    return manifest(scaling={"minReplicas": 0, "maxReplicas": 2, "idleTimeout": "2s"} | scaling)


def ask(fleet: Fleet, tokens: int = 4, model: str = "smollm2") -> httpx.Response:
    body = {"model": model, "max_tokens": tokens, "messages": [{"role": "user", "content": "Hi"}]}
    return httpx.post(f"{fleet.endpoint}/v1/chat/completions", json=body, timeout=30, verify=tls())


def modelfleet(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["modelfleet", *arguments], capture_output=True, text=True, timeout=30, check=False
    )


def everything(fleet: Fleet) -> tuple[list[psutil.Process], set[int]]:
    """All processes of a fleet and all ports that they listen on."""
    processes = [fleet.up, *fleet.up.children(recursive=True)]
    ports = {
        connection.laddr.port
        for process in processes
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    return processes, ports


def assert_gone(processes: list[psutil.Process], ports: set[int]) -> None:
    def is_gone(process: psutil.Process) -> bool:
        try:
            return process.status() == psutil.STATUS_ZOMBIE  # of a parent that was killed
        except psutil.NoSuchProcess:
            return True

    eventually("every process is gone", lambda: all(map(is_gone, processes)), within=10)
    # The threads of a killed process may outlive its main one by an instant.
    eventually("every port is free", lambda: not any(map(is_taken, ports)), within=5)


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_fleet_gets_ready_answers_sleeps_wakes_and_leaves_nothing(start: Start):
    fleet = start(sleepy())
    eventually("it is ready", fleet.is_ready)
    assert ask(fleet).status_code == 200
    eventually("it sleeps", fleet.is_asleep)
    eventually("nothing is left", lambda: fleet.status()["replicas"] == 0)

    answer = ask(fleet)
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 4
    processes, ports = everything(fleet)  # before it sleeps again
    assert fleet.status()["scalingHistory"][-1]["reason"].startswith("1 waiting")

    table = subprocess.run(
        ["modelfleet", "status", "--state-dir", str(fleet.state)],
        check=True, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"},
    ).stdout  # fmt: skip
    assert "smollm2" in table
    assert "Serving" in table or "Asleep" in table, table

    assert fleet.gateway_metric("modelfleet_gateway_requests_total") == 2
    assert len(ports) == 5, "the gateway, its metrics, the worker, the Fleet service, explain"
    assert fleet.stop(signal.SIGTERM) == 0
    assert_gone(processes, ports)
    assert sorted(path.name for path in fleet.state.iterdir()) == ["learned.json", "logs"]
    told = fleet.log.read_text()
    for words in [
        "starting 1 worker",
        "modelfleet chat smollm2",
        "curl http://127.0.0.1",
        "ready in",
        "asleep after 2 s idle",
        "waking (1 request waits)",
        "ending",
    ]:
        assert words in told, told


def test_a_killed_worker_is_replaced(start: Start):
    fleet = start(manifest())
    eventually("it is ready", fleet.is_ready)
    [victim] = fleet.workers()
    victim.kill()
    eventually("another one runs", lambda: [w for w in fleet.workers() if w.pid != victim.pid])
    assert ask(fleet).status_code == 200
    assert "worker exited (ended by SIGKILL): replaced" in fleet.log.read_text()


def drain(worker: WorkerStub) -> None:
    worker.Drain(worker_pb2.DrainRequest(deadline_seconds=600))


def unload(worker: WorkerStub) -> None:
    worker.UnloadModel(worker_pb2.UnloadModelRequest())


def load_another(worker: WorkerStub) -> None:
    unload(worker)
    spec = worker_pb2.ModelSpec(model="default/another", source=SMOLLM2)
    worker.LoadModel(worker_pb2.LoadModelRequest(spec=spec))


@pytest.mark.parametrize("alter", [drain, load_another])
def test_a_worker_that_somebody_alters_behind_the_operators_back_is_replaced(
    start: Start, alter: Callable[[WorkerStub], None]
):
    fleet = start(manifest())
    eventually("it is ready", fleet.is_ready)
    [victim] = fleet.workers()
    [address] = (fleet.state / "run").glob("default.smollm2-*")
    with grpc.insecure_channel(address.read_text()) as channel:
        alter(WorkerStub(channel))
        eventually("it is ended", lambda: not victim.is_running(), within=60)
    eventually("another one serves", lambda: fleet.workers() and fleet.is_ready(), within=60)
    answer = ask(fleet)
    assert answer.status_code == 200
    assert victim.pid not in {worker.pid for worker in fleet.workers()}


def test_a_killed_gateway_is_started_again_on_its_port(start: Start):
    fleet = start(manifest())
    eventually("it is ready", fleet.is_ready)
    [gateway] = fleet.children("modelfleet_gateway")
    gateway.kill()
    gateway.wait(10)
    eventually("it answers again", fleet.gateway_is_ready)
    assert ask(fleet).status_code == 200
    assert len(fleet.workers()) == 1, "the workers were left alone"
    assert "the gateway exited (ended by SIGKILL): started again now" in fleet.log.read_text()


def test_a_killed_up_leaves_no_child(start: Start):
    fleet = start(manifest())
    eventually("it is ready", fleet.is_ready)
    processes, ports = everything(fleet)
    fleet.up.kill()
    fleet.up.wait(10)
    assert_gone(processes, ports)


def test_ctrl_c_lets_what_runs_finish_and_a_second_one_does_not(start: Start):
    fleet = start(manifest())
    eventually("it is ready", fleet.is_ready)
    processes, ports = everything(fleet)
    body = {
        "model": "smollm2",
        "prompt": "x",
        "max_tokens": 8000,
        "ignore_eos": True,
        "stream": True,
    }
    with httpx.stream("POST", f"{fleet.endpoint}/v1/completions", json=body, timeout=60) as stream:
        lines = stream.iter_lines()
        next(lines)
        fleet.up.send_signal(signal.SIGINT)
        eventually("it is ending", lambda: "ending" in fleet.log.read_text())
        for _ in range(5):
            next(lines)
        assert fleet.up.poll() is None, "it waits for the stream"
        started = time.monotonic()
        assert fleet.stop(signal.SIGINT) == 130, fleet.log.read_text()
        assert time.monotonic() - started < 5
    assert_gone(processes, ports)


def test_a_port_in_use_is_said_before_anything_starts(start: Start):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        fleet = start(manifest(), "--port", str(port), wait=False)
        assert fleet.up.wait(20) == 1
    told = fleet.log.read_text()
    assert len(told.strip().splitlines()) == 1
    assert f"127.0.0.1:{port}" in told
    assert "--port" in told


def test_a_state_directory_belongs_to_one_fleet(start: Start):
    first = start(manifest())
    second = start(manifest(), "--state-dir", str(first.state), wait=False)
    assert second.up.wait(20) == 1
    told = second.log.read_text()
    assert str(first.up.pid) in told
    assert "--state-dir" in told
    assert first.gateway_is_ready()


def test_a_gateway_that_cannot_start_ends_the_fleet_with_its_reason(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    broken = tmp_path / "modelfleet_gateway"
    broken.mkdir()
    (broken / "__init__.py").touch()
    (broken / "__main__.py").write_text('raise SystemExit("error: no luck today")')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    fleet = start(manifest(), wait=False)
    workers = eventually("a worker runs", fleet.workers)
    assert fleet.up.wait(30) == 1
    assert "the gateway does not start: exit code 1: error: no luck today" in fleet.log.read_text()
    assert "Traceback" not in fleet.log.read_text()
    assert_gone(workers, set())


def test_a_secret_of_a_cluster_is_refused_with_the_way_out(
    start: Start, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    secret = manifest(model={"tokenSecretRef": {"name": "hub", "key": "token"}})
    fleet = start(secret, wait=False)
    assert fleet.up.wait(20) == 1
    told = fleet.log.read_text()
    assert "tokenSecretRef" in told
    assert "HF_TOKEN" in told


def test_several_models_in_one_fleet_and_the_first_keeps_a_shared_name(start: Start):
    first = manifest("one", model={"servedNames": ["chat"]})
    second = manifest("two", model={"servedNames": ["chat"]})
    fleet = start(first, second)
    eventually("both are ready", lambda: fleet.is_ready("one") and fleet.is_ready("two"))
    models = httpx.get(f"{fleet.endpoint}/v1/models", verify=tls()).json()["data"]
    assert {"chat", "default/one", "default/two"} <= {model["id"] for model in models}
    assert fleet.condition("NameConflict", "two")["status"] == "True"
    assert ask(fleet, model="chat").status_code == 200
    assert ask(fleet, model="default/two").status_code == 200


def test_a_model_that_cannot_be_loaded_is_stalled_with_the_workers_own_words(
    start: Start, tmp_path: Path
):
    broken = manifest("broken", source=f"file://{tmp_path}/nothing-here")
    fleet = start(broken, "--device", "cpu")
    eventually(
        "it is stalled", lambda: fleet.condition("Stalled", "broken").get("status") == "True"
    )
    assert "nothing-here" in fleet.condition("Stalled", "broken")["message"]
    assert fleet.condition("Ready", "broken")["status"] == "False"
    answer = ask(fleet, model="broken")
    assert answer.status_code == 503
    assert "nothing-here" in answer.json()["error"]["message"], "and not after holdTimeout"
    assert "retry-after" not in answer.headers


def test_verbose_tells_why_and_passes_on_to_the_children(start: Start):
    fleet = start(manifest(), "--log-format", "json", "-v")
    eventually("it is ready", fleet.is_ready)
    assert ask(fleet).status_code == 200
    assert fleet.stop() == 0
    lines = [json.loads(line) for line in fleet.log.read_text().splitlines()]
    [created] = [line for line in lines if line["event"] == "plan: create"]
    assert (created["level"], created["model"]) == ("debug", "default/smollm2")
    assert created["reason"]
    for part, event in (("gateway", "dispatched"), ("default.smollm2-*", "admitted")):
        [log] = fleet.state.glob(f"logs/{part}.log")
        events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
        assert event in events


def test_log_lines_are_json_for_a_machine(start: Start):
    fleet = start(manifest(), "--log-format", "json")
    eventually("it is ready", fleet.is_ready)
    assert fleet.stop() == 0
    lines = [json.loads(line) for line in fleet.log.read_text().splitlines()]
    assert "debug" not in {line["level"] for line in lines}
    ready = [line for line in lines if line["event"].startswith("ready in")]
    assert ready
    assert ready[0]["model"] == "default/smollm2"


def test_explain_asks_the_fleet_that_runs_here_and_replays_what_it_saved(start: Start, tmp_path):
    fleet = start(sleepy(minReplicas=1))
    eventually("a worker is ready", lambda: ask(fleet).status_code == 200)
    saved = tmp_path / "snapshot.json"
    place = ["--state-dir", str(fleet.state)]
    # It comes once gateway and workers have started.
    eventually("explain answers", lambda: modelfleet("explain", "smollm2", *place).returncode == 0)
    told = modelfleet("explain", "smollm2", *place, "--save", str(saved))
    assert told.returncode == 0, told.stderr
    assert "Ready=True (Serving)" in told.stdout
    assert "autoscale: 1 wanted" in told.stdout
    assert modelfleet("explain", "--replay", str(saved)).stdout == told.stdout

    none = modelfleet("explain", "none", *place)
    assert (none.returncode, none.stderr) == (
        1,
        "no ModelDeployment default/none runs here; there are: smollm2\n",
    )


@pytest.mark.parametrize("name", ["a\nb", "tiny?x=1", "a/b/c", "a" * 99_999])
def test_explain_takes_only_what_can_be_a_name(name, tmp_path):
    told = modelfleet("explain", name, "--state-dir", str(tmp_path))
    assert told.returncode == 2
    assert "expected NAME or NAMESPACE/NAME" in told.stderr
    assert len(told.stderr) < 2000


def test_explain_without_a_fleet_names_the_state_directory(tmp_path):
    told = modelfleet("explain", "smollm2", "--state-dir", str(tmp_path))
    assert told.returncode == 1
    assert told.stderr == f"no fleet runs with the state directory {tmp_path}\n"


def accelerator_class(name: str, price: str, bandwidth: str):
    return {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "AcceleratorClass",
        "metadata": {"name": name},
        "spec": {"memory": "8Gi", "memoryBandwidth": bandwidth, "price": {"onDemand": price}},
    }


def test_the_cheapest_class_of_the_files_is_chosen_and_explained(start: Start):
    placement = {"strategy": "Cheapest", "accelerators": ["slow", "fast"]}
    fleet = start(
        accelerator_class("slow", "1", "100G"),
        accelerator_class("fast", "2", "400G"),
        manifest(placement=placement),
    )
    eventually("it is ready", fleet.is_ready)
    told = fleet.status()["placement"]
    assert (told["accelerator"], told["basis"]) == ("fast", "Estimated")
    assert told["runnerUp"]["accelerator"] == "slow"
    assert told["runnerUp"]["why"] == "a token costs 100% more"
    assert fleet.status()["cost"] == {"perHour": "2.00"}
    assert ask(fleet).is_success
    place = ["--state-dir", str(fleet.state)]
    eventually("explain answers", lambda: modelfleet("explain", "smollm2", *place).returncode == 0)
    explained = modelfleet("explain", "smollm2", *place)
    assert "slow: " in explained.stdout
    assert "estimated from its memory bandwidth" in explained.stdout
    assert "new workers go to fast: " in fleet.log.read_text()


def test_the_endpoint_speaks_https_with_a_certificate(start: Start, tmp_path: Path):
    files = self_signed(tmp_path, "up")
    flags = ["--tls-certificate", str(files.certificate), "--tls-key", str(files.key)]
    fleet = start(sleepy(), *flags, wait=False)
    url = fleet.endpoint.replace("http:", "https:")
    eventually("the gateway is ready", lambda: f"{url}/v1" in fleet.log.read_text())
    trusted = ssl.create_default_context(cafile=str(files.certificate))
    models = httpx.get(f"{url}/v1/models", verify=trusted, trust_env=False).json()
    assert [model["id"] for model in models["data"]]

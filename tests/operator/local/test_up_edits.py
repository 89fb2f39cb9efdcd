"""The files of a running `modelfleet up` are edited: applied as on a cluster, or refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from local_fleet import Fleet, eventually, free_port, manifest

pytestmark = pytest.mark.integration

Start = Callable[..., Fleet]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "fleet.yaml"


def write(file: Path, *documents: dict[str, Any]) -> None:
    """As editors do: the whole file at once."""
    fresh = file.with_suffix(".new")
    fresh.write_text(yaml.safe_dump_all(documents))
    fresh.replace(file)


@pytest.fixture
def fleet(tmp_path: Path, file: Path) -> Iterator[Callable[..., Fleet]]:
    """`fleet(manifest(...), ...)` on the paced device."""
    calibration = tmp_path / "calibration.json"
    calibration.write_text('{"load_seconds": 0.2}')
    started: list[Fleet] = []

    def start(*documents: dict[str, Any]) -> Fleet:
        write(file, *documents)
        port, state, log = free_port(), tmp_path / "state", tmp_path / "log"
        with log.open("wb") as output:
            up = psutil.Popen(
                ["modelfleet", "up", str(file), "--port", str(port), "--state-dir", str(state),
                 "--device", "paced", "--calibration", str(calibration)],
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        started.append(Fleet(up=up, endpoint=f"http://127.0.0.1:{port}", state=state, log=log))
        return started[-1]

    yield start
    for one in started:
        try:
            one.stop(signal.SIGTERM)
        finally:
            one.end_for_good()


def modelfleet(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["modelfleet", *arguments], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


def replicas(fleet: Fleet, name: str = "smollm2") -> int:
    return fleet.status(name).get("readyReplicas", 0)


def test_an_edit_is_applied_by_the_same_decisions_and_a_bad_one_is_not(fleet, file: Path):
    up = fleet(manifest())
    eventually("it is ready", up.is_ready)
    before = up.status()["revision"]
    [first] = up.workers()

    write(file, manifest(scaling={"minReplicas": 2, "maxReplicas": 2}))
    eventually("another worker is started", lambda: replicas(up) == 2)
    assert up.status()["revision"] == before, "a count is no revision"
    assert up.status()["observedGeneration"] == 2

    file.write_text("spec: [")
    eventually("the bad edit is told", lambda: "the edit is not applied" in up.log.read_text())
    assert "not valid YAML" in up.log.read_text()
    assert first.is_running()

    write(file, manifest(engine={"maxSequences": 8}), manifest("other"))
    eventually("the new model is ready", lambda: up.is_ready("other"))
    eventually(
        "the new revision has replaced the old one",
        lambda: (
            up.status()["revision"] != before
            and up.condition("Reconciling")["status"] == "False"
            and replicas(up) == 1
        ),
    )
    assert not first.is_running()
    assert up.is_ready()
    told = up.log.read_text()
    assert f"revision {up.status()['revision']} follows {before}" in told
    eventually(
        "the end of the rollout is told",
        lambda: f"every worker is of revision {up.status()['revision']}" in up.log.read_text(),
    )

    write(file, manifest("other"))
    eventually("its worker is gone", lambda: len(up.workers()) == 1)
    assert up.status() == {}, "its status is gone"
    models = json.loads(modelfleet("models", "--state-dir", str(up.state), "-o", "json").stdout)
    assert {model["root"] for model in models} == {"default/other"}


def test_the_same_file_as_on_a_cluster_with_its_secret_and_its_job(fleet):
    variable = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "key"}}}
    template = {"spec": {"containers": [{"name": "worker", "env": [variable]}]}}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s"},
        "stringData": {"key": "a secret"},
    }
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "fill"}, "spec": {}}
    up = fleet(secret, job, manifest(podTemplate=template))
    eventually("it is ready", up.is_ready)
    [worker] = up.workers()
    assert worker.environ()["KEY"] == "a secret"
    told = up.log.read_text()
    assert "Job default/fill" in told
    assert "Secret default/s" not in told, "it is used"
    for written in (up.log, *up.state.rglob("*.yaml"), *up.state.rglob("*.log")):
        assert "a secret" not in written.read_text()


def test_a_newcomer_tries_a_model_without_curl(fleet):
    up = fleet(manifest(), manifest("asleep", scaling={"minReplicas": 0, "idleTimeout": "1s"}))
    place = ["--state-dir", str(up.state)]
    eventually("one is ready", up.is_ready)
    eventually("one sleeps", lambda: up.condition("Ready", "asleep").get("reason") == "Asleep")

    listed = modelfleet("models", *place)
    assert "smollm2" in listed.stdout
    for model, at in (("smollm2", place), ("asleep", ["--endpoint", up.endpoint])):
        said = modelfleet("chat", model, "-m", "Hi", "--max-tokens", "5", *at)
        assert said.returncode == 0, said.stderr
        assert said.stdout.strip(), f"{model} answered"
    unknown = modelfleet("chat", "none", "-m", "Hi", *place)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "none" in unknown.stderr
    which = modelfleet("chat", "-m", "Hi", *place)
    assert "default/asleep, default/smollm2" in which.stderr

    logs = modelfleet("logs", "smollm2", *place)
    assert logs.returncode == 0
    assert logs.stdout.startswith("[smollm2-")

    shown = modelfleet("status", *place, COLUMNS="80").stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert f"endpoint: {up.endpoint}/v1" in shown
    found = json.loads(modelfleet("status", "smollm2", "-o", "json", *place).stdout)
    [item] = found["items"]
    assert item["status"]["url"] == f"{up.endpoint}/v1"
    assert item["status"]["desiredReplicas"] == 1
    for command in (["status"], ["status", "-o", "json"], ["logs"], ["explain"]):
        wrong = modelfleet(*command, "none", *place)
        assert (wrong.returncode, wrong.stdout) == (1, "")
        assert "none runs here; there are: asleep, smollm2" in wrong.stderr
    both = modelfleet("status", "none", "smollm2", *place)
    assert both.returncode == 1
    assert "smollm2" in both.stdout


def test_a_key_among_the_files_is_asked_for_until_the_end(fleet, file: Path):
    key = "mf-a-secret-of-some-length"
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "me", "labels": {"modelfleet.dev/api-key": ""}},
        "stringData": {"key": key},
    }
    up = fleet(manifest(), secret)
    eventually("the gateway is ready", up.gateway_is_ready)
    state = ("--state-dir", str(up.state), "-o", "json")
    listed = modelfleet("models", *state, MODELFLEET_API_KEY=key)
    assert listed.returncode == 0, listed.stderr
    refused = modelfleet("models", *state)
    assert (refused.returncode, "asks for an API key" in refused.stderr) == (1, True)
    assert "clients need one of the API keys in the files" in up.log.read_text()

    write(file, manifest())  # the last key is gone: nobody may ask, and not everybody
    eventually(
        "the key is revoked",
        lambda: "not valid here" in modelfleet("models", *state, MODELFLEET_API_KEY=key).stderr,
    )
    assert modelfleet("models", *state).returncode == 1
    logs = (path.read_text() for path in up.state.rglob("*") if path.is_file())
    assert key not in "".join([up.log.read_text(), *logs])

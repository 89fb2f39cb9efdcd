"""Real processes: a wake through the gateway claims a worker that stands by, and loses nothing."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from local_fleet import Fleet, StartFleet, eventually, manifest

pytestmark = pytest.mark.integration

SLEEPY = {"minReplicas": 0, "maxReplicas": 1, "idleTimeout": "1s"}
QUESTION = {"model": "smollm2", "prompt": "p", "max_tokens": 4}


def warm_pool(size: int = 1, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "WarmPool",
        "metadata": {"name": "standby"},
        "spec": {"size": size, **spec},
    }


def paced(folder: Path, load_seconds: float) -> list[str]:
    file = folder / f"load-{load_seconds:g}.json"
    file.write_text(json.dumps({"load_seconds": load_seconds}))
    return ["--device", "paced", f"--calibration={file}"]


def pool_status(fleet: Fleet) -> dict[str, Any]:
    for file in (fleet.state / "pools").rglob("standby.yaml"):
        return dict((yaml.safe_load(file.read_text()) or {}).get("status") or {})
    return {}


def pids(fleet: Fleet) -> set[int]:
    return {process.pid for process in fleet.workers()}


def is_asleep(fleet: Fleet) -> bool:
    """Only those that stand by are left."""
    return fleet.condition("Ready").get("reason") == "Asleep"


def asleep_with(fleet: Fleet, standby: int) -> set[int]:
    """The pids of the standbys, once its revision proved itself and it sleeps."""
    eventually("it sleeps", lambda: is_asleep(fleet))
    eventually("it is full", lambda: pool_status(fleet).get("standby") == standby)
    return set(eventually("only they run", lambda: p if len(p := pids(fleet)) == standby else None))


@contextmanager
def asked(fleet: Fleet) -> Iterator[list[httpx.Response]]:
    """A request that waits meanwhile; its answer is in the list when the block has ended."""
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(httpx.post(f"{fleet.endpoint}/v1/completions", json=QUESTION, timeout=60))

    asking = threading.Thread(target=ask)
    asking.start()
    yield answers
    asking.join()


def test_a_wake_claims_a_standby_and_the_pool_refills(start_fleet: StartFleet, tmp_path: Path):
    fleet = start_fleet(
        warm_pool(), manifest(scaling=SLEEPY, coldStart={"warmPool": "standby"}),
        *paced(tmp_path, load_seconds=0.2),
    )  # fmt: skip
    asleep_with(fleet, 1)
    before = pool_status(fleet)
    with asked(fleet) as answers:
        pass
    assert answers[0].status_code == httpx.codes.OK, answers[0].text
    now = eventually(
        "it is full again", lambda: s if (s := pool_status(fleet))["standby"] == 1 else None
    )
    assert now["hits"] == before["hits"] + 1
    shown = subprocess.run(
        ["modelfleet", "status", "--state-dir", str(fleet.state)],
        capture_output=True, text=True, timeout=30, check=True,
    ).stdout  # fmt: skip
    assert "pool standby: 1 of 1 stand by" in shown
    logs = subprocess.run(
        ["modelfleet", "logs", "smollm2", "--state-dir", str(fleet.state)],
        capture_output=True, text=True, timeout=30, check=True,
    ).stdout  # fmt: skip
    assert "loading" in logs, "what a claimed worker says is its model's"


def test_a_standby_that_holds_the_model_serves_it_without_a_load(
    start_fleet: StartFleet, tmp_path: Path
):
    pool = warm_pool(loadedModel="smollm2")
    fleet = start_fleet(pool, manifest(scaling=SLEEPY), *paced(tmp_path, load_seconds=1.0))
    asleep_with(fleet, 1)
    logs = fleet.state / "logs"
    (log,) = logs.glob("default.standby-*.log")
    eventually("it is loaded", lambda: "asleep" in log.read_text())
    with asked(fleet) as answers:
        pass
    assert answers[0].status_code == httpx.codes.OK, answers[0].text
    said = eventually("it says so", lambda: [f for f in logs.iterdir() if "woken" in f.read_text()])
    assert [file.name.startswith("default.smollm2-") for file in said] == [True]
    assert "loading" not in said[0].read_text().partition("woken")[2]


def test_a_standby_that_is_killed_while_it_is_claimed_costs_no_request(
    start_fleet: StartFleet, tmp_path: Path
):
    fleet = start_fleet(warm_pool(), manifest(scaling=SLEEPY), *paced(tmp_path, load_seconds=2.0))
    (standby,) = asleep_with(fleet, 1)
    hits = pool_status(fleet)["hits"]
    with asked(fleet) as answers:
        eventually("it is claimed", lambda: pool_status(fleet)["hits"] == hits + 1)
        psutil.Process(standby).kill()
    assert answers[0].status_code == httpx.codes.OK, answers[0].text
    assert standby not in pids(fleet)


def test_a_pool_that_leaves_the_file_takes_its_standbys_and_leaves_what_was_claimed(
    start_fleet: StartFleet, tmp_path: Path
):
    always = manifest(scaling={"minReplicas": 1, "maxReplicas": 1})
    fleet = start_fleet(warm_pool(2), *paced(tmp_path, load_seconds=0.2), always)
    eventually("it is ready", fleet.is_ready)
    eventually("it is full", lambda: pool_status(fleet).get("standby") == 2)
    file = tmp_path / "yaml-0"
    fresh = manifest("second", scaling={"minReplicas": 1, "maxReplicas": 1})
    file.write_text(yaml.safe_dump_all([warm_pool(2), always, fresh]))
    eventually("the second is ready", lambda: fleet.is_ready("second"))
    assert pool_status(fleet)["hits"] >= 1
    eventually("it is full again", lambda: pool_status(fleet)["standby"] == 2)
    serving = {
        process.pid
        for process in fleet.workers()
        if any(
            c.raddr for c in process.net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED
        )
    }
    file.write_text(yaml.safe_dump_all([always, fresh]))
    eventually("the standbys are gone", lambda: len(pids(fleet)) == 2)
    assert pids(fleet) == serving
    assert fleet.is_ready("second")

"""Real processes: a start is timed by phase, told while requests wait, and bounded."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from local_fleet import Fleet, StartFleet, eventually, manifest

pytestmark = pytest.mark.integration

SLEEPY = {"minReplicas": 0, "maxReplicas": 1, "idleTimeout": "1s"}
QUESTION = {"model": "smollm2", "prompt": "p", "max_tokens": 4, "stream": True}


def calibration(folder: Path, load_seconds: float) -> str:
    file = folder / f"load-{load_seconds:g}.json"
    file.write_text(json.dumps({"load_seconds": load_seconds}))
    return f"--calibration={file}"


def ask_while_it_wakes(fleet: Fleet) -> list[str]:
    """Every line of the stream, comments included."""
    with httpx.stream(
        "POST",
        f"{fleet.endpoint}/v1/completions",
        json=QUESTION,
        headers={"x-modelfleet-progress": "true"},
        timeout=60,
    ) as answer:
        lines = []
        with contextlib.suppress(httpx.RemoteProtocolError):  # so a stream ends that failed
            lines.extend(line for line in answer.iter_lines() if line)
        return lines


def learned_of(fleet: Fleet, *, wakes: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = fleet.status().get("coldStarts", [])
    return [learned for learned in found if learned["wakes"] == wakes]


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_a_start_is_timed_by_phase_and_waiting_streams_hear_of_it(
    start_fleet: StartFleet, tmp_path: Path
):
    fleet = start_fleet(
        manifest(scaling=SLEEPY), "--device", "paced", calibration(tmp_path, load_seconds=2.0)
    )
    eventually("its revision proved itself, and it sleeps", fleet.is_asleep)
    lines = ask_while_it_wakes(fleet)
    assert lines[-1] == "data: [DONE]"
    comments = [line for line in lines if line.startswith(": waiting for a worker: phase ")]
    assert any("; load " in line and " s so far; 1 queued" in line for line in comments), comments
    (learned,) = eventually("both are learned", lambda: learned_of(fleet, wakes=2))
    took = {phase: seconds(text) for phase, text in learned["seconds"].items()}
    assert learned["accelerator"] == ""
    assert took.keys() == {"node", "image", "weights", "load", "firstToken", "total"}
    assert took["node"] == took["image"] == 0, "there is neither on one machine"
    assert took["load"] >= 2.0
    assert took["total"] == pytest.approx(sum(took.values()) - took["total"], abs=0.1)


def test_a_start_beyond_its_deadline_is_refused_with_the_phase_that_it_is_in(
    start_fleet: StartFleet, tmp_path: Path
):
    fleet = start_fleet(
        manifest(scaling=SLEEPY, coldStart={"deadline": "1s"}),
        *("--device", "paced"),
        calibration(tmp_path, load_seconds=60.0),
    )
    lines = ask_while_it_wakes(fleet)
    # An event of the stream, or the whole answer if the deadline was over before it came.
    (error,) = [line for line in lines if '"error"' in line]
    said = json.loads(error.removeprefix("data: "))["error"]
    assert said["code"] == "model_not_ready"
    assert "ColdStartTimeout: no worker is ready 1 s after the first was wanted" in said["message"]
    assert "has been in phase load since" in said["message"]
    assert fleet.condition("Stalled")["reason"] == "ColdStartTimeout"
    refused = httpx.post(f"{fleet.endpoint}/v1/completions", json=QUESTION | {"stream": False})
    assert refused.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert fleet.workers(), "it goes on"

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelfleet_operator.cli import main

MANIFEST = """
apiVersion: modelfleet.dev/v1alpha1
kind: ModelDeployment
metadata: {name: chat}
spec:
  model: {source: "hf://HuggingFaceTB/SmolLM2-135M-Instruct"}
  placement: {accelerators: [small]}
  scaling: {minReplicas: 0, maxReplicas: 4, targetQueueDepth: 4}
"""
CLASS = """
apiVersion: modelfleet.dev/v1alpha1
kind: AcceleratorClass
metadata: {name: small}
spec: {price: {onDemand: "3.60"}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = "".join(f"{n * 0.1:.3f},60,30\n" for n in range(300))
    (tmp_path / "trace.csv").write_text("arrival,prompt_tokens,output_tokens\n" + rows)
    (tmp_path / "before.yaml").write_text(MANIFEST)
    (tmp_path / "after.yaml").write_text(
        MANIFEST.replace("targetQueueDepth: 4", "targetQueueDepth: 2")
    )
    (tmp_path / "classes.yaml").write_text(CLASS)
    return tmp_path


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def simulate(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The command, in this process: to start one takes longer than to simulate."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(
            sys, "argv", ["modelfleet", "simulate", "--trace", "trace.csv", *arguments]
        )
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Done(int(ended.value.code or 0), printed.out, printed.err)

    return run


def test_compares_files_and_policies_and_prices_them(simulate):
    done = simulate(
        "before.yaml", "after.yaml", "classes.yaml", "--baseline=fixed:replicas=4",
        "--cold-start=20s", "-o", "json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "SmolLM2" in found["calibration"]
    before, after, fixed = found["results"]
    assert [r["name"] for r in found["results"]] == [
        "before.yaml", "after.yaml", "fixed (replicas 4)",
    ]  # fmt: skip
    assert after["replicaHours"]["total"] > before["replicaHours"]["total"]
    assert fixed["replicaHours"]["total"] == pytest.approx(4 * 30 / 3600, rel=0.1)
    for result in (before, after, fixed):
        hours = result["replicaHours"]
        assert result["cost"] == pytest.approx(3.6 * hours["total"], rel=1e-4)
        parts = hours["serving"] + hours["idle"] + hours["cold"] + hours["draining"]
        assert parts == pytest.approx(hours["total"], abs=1e-5)
        assert result["outcomes"] == {"done": 300}
        assert sum(result["decidedBy"].values()) == pytest.approx(1, abs=1e-4)
        assert result["series"]


def test_shows_a_table_and_a_chart_for_a_person(simulate):
    done = simulate("before.yaml")
    assert done.returncode == 0, done.stderr
    for word in ("the shipped calibration", "attainment", "area bound", "queue depth", "replicas"):
        assert word in done.stdout
    assert re.search("[▁▂▃▄▅▆▇█]", done.stdout)
    assert done.stdout == simulate("before.yaml").stdout
    many = simulate("before.yaml", "--baselines", "all")
    assert many.returncode == 0, many.stderr
    for name in ("hpa-utilization", "keda-waiting", "kpa", "kubeai", "clairvoyant"):
        assert name in many.stdout


def test_draws_a_picture(simulate, folder: Path):
    pytest.importorskip("matplotlib")
    done = simulate("before.yaml", "--chart=load.png")
    assert done.returncode == 0, done.stderr
    assert (folder / "load.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("{}", ["before.yaml", "--calibration=it"], ""),
        ('{"model": "hf://a/b"}', ["before.yaml", "--calibration=it"],
         "default/chat serves hf://HuggingFaceTB/SmolLM2-135M-Instruct, but the calibration was "
         "measured with hf://a/b"),
        ('{"speed": 1}', ["before.yaml", "--calibration=it"], "speed: Extra inputs"),
        ("kind: Pod", ["it"], "expected kind ModelDeployment"),
        ("", ["it"], "expected a ModelDeployment"),
        ("arrival,prompt_tokens,output_tokens\n1,2,3\n0,2,3\n", ["before.yaml", "--trace=it"],
         "it, line 3: arrival is 0, which is before the request above it"),
        ("coldStart: {load: -1}", ["before.yaml", "--scenario=it"], "it: coldStart.load.median"),
        ("coldStart: {load: {median: 9, p95: 3}}", ["before.yaml", "--scenario=it"], "below the m"),
        ("", ["before.yaml", "--model=other"], "there is no other; ModelDeployments here are"),
        ("", ["before.yaml", "--from=1h"], "there are no requests from 3600 s on"),
        ("", ["before.yaml", "--baseline=best"], "expected one of all, hpa-utilization"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(
    simulate, folder: Path, content: str, arguments: list[str], message: str
):
    (folder / "it").write_text(content)
    done = simulate(*arguments)
    assert done.returncode == (1 if message else 0)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == (1 if message else 0), done.stderr


def test_a_wrong_option_is_a_usage_error(simulate):
    for flag in ("--from=soon", "--tpot=fast", "--ttft=-1", "--load=0"):
        assert simulate("before.yaml", flag).returncode == 2

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


POOL = """
---
apiVersion: modelfleet.dev/v1alpha1
kind: WarmPool
metadata: {name: standby}
spec: {accelerator: small, size: 2}
"""
SPOT_CLASS = CLASS.replace('{onDemand: "3.60"}', '{onDemand: "3.60", spot: "1.08"}')
SCENARIO = """
coldStart: {node: 40, image: 15, load: 5}
pool: {priceShare: 0.3}
spot: {perHour: 30, notice: 30, burst: {perHour: 5, share: 1, shortage: 20}}
"""


def test_says_what_a_pool_saves_and_what_spot_costs(simulate, folder: Path):
    (folder / "pool.yaml").write_text(MANIFEST + POOL)
    (folder / "spot.yaml").write_text(
        MANIFEST.replace("accelerators: [small]", "accelerators: [small], spot: {policy: Prefer}")
    )
    (folder / "classes.yaml").write_text(SPOT_CLASS)
    (folder / "world.yaml").write_text(SCENARIO)
    files = ("before.yaml", "pool.yaml", "spot.yaml", "classes.yaml", "--scenario=world.yaml")
    done = simulate(*files, "-o", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    before, pool, spot = found["results"]
    assert found["claim"] == (
        "load 5 s; another standby takes node 40 s, image 15 s, and costs 30% of a worker"
    )
    assert before["costs"].keys() == {"onDemand"}
    assert before["pool"] == {"standbyHours": 0, "hits": 0, "misses": 0, "secondsSaved": 0}
    assert pool["pool"]["hits"] == 2
    assert pool["pool"]["misses"] > 0
    assert pool["costs"]["standby"] == pytest.approx(
        0.3 * 3.6 * pool["pool"]["standbyHours"], rel=1e-3
    )
    assert pool["attainment"] > before["attainment"]
    assert spot["costs"]["spot"] == pytest.approx(1.08 * spot["replicaHours"]["total"], rel=1e-3)
    for result in found["results"]:
        assert sum(result["costs"].values()) == pytest.approx(result["cost"], abs=1e-5)
        assert result["outcomes"] == {"done": 300}
    table = simulate(*files).stdout
    for words in ("another standby takes", "claims, and misses", "pool.yaml beside before.yaml"):
        assert words in table
    assert "30 s notice; 30 interruptions an hour of each worker" in table
    assert "claims" not in simulate("before.yaml").stdout


def test_a_pool_that_nothing_is_claimed_of_says_why(simulate, folder: Path):
    template = "  podTemplate: {metadata: {labels: {team: chat}}}\n"
    (folder / "pool.yaml").write_text(MANIFEST + template + POOL)
    done = simulate("pool.yaml", "classes.yaml")
    assert done.returncode == 0, done.stderr
    assert (
        "pool.yaml: WarmPool default/standby: nothing is claimed: the deployment has a "
        "podTemplate, and a standby has none"
    ) in done.stdout
    budget = POOL.replace("size: 2", 'size: 2, maxHourlyCost: "4"')
    (folder / "pool.yaml").write_text(MANIFEST + budget)
    assert "above spec.maxHourlyCost 4: 1 are kept" in simulate("pool.yaml", "classes.yaml").stdout


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
        ("pool: {claim: fast}", ["before.yaml", "--scenario=it"], "it: pool.claim: Input should"),
        ("pool: {priceShare: 3}", ["before.yaml", "--scenario=it"], "it: pool.priceShare: Input"),
        ("spot: {notice: -1}", ["before.yaml", "--scenario=it"], "it: spot.notice: Input"),
        ("spot: {burst: {share: 2}}", ["before.yaml", "--scenario=it"], "it: spot.burst.share: In"),
        (MANIFEST + POOL, ["it"],
         "it: WarmPool default/standby is of AcceleratorClass small, which is in none of the"),
        (MANIFEST + POOL + "---" + MANIFEST.replace("name: chat", "name: code"),
         ["it", "classes.yaml"], "WarmPool default/standby is shared by default/chat and "
         "default/code, and one deployment is simulated at a time: choose one with --model"),
        (MANIFEST + "  coldStart: {warmPool: gpus}\n" + POOL, ["it", "classes.yaml"],
         "spec.coldStart.warmPool of default/chat is gpus, and there is no such WarmPool"),
        (MANIFEST + POOL.replace("2}", "2, loadedModel: code}"), ["it", "classes.yaml"],
         "spec.loadedModel of WarmPool default/standby is default/code, and there is no such"),
        (POOL + "---" + CLASS, ["before.yaml", "it"], "found AcceleratorClass, WarmPool only"),
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
    for flag in ("--from=soon", "--tpot=fast", "--ttft=-1", "--load=0", "--claim=soon"):
        assert simulate("before.yaml", flag).returncode == 2

"""`modelfleet status` lists warm pools beside the deployments."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelfleet_operator.cli import main
from modelfleet_operator.decisions.memory import Failures
from modelfleet_operator.decisions.pool import decide_pool
from modelfleet_operator.decisions.pool_observed import Pool, PoolObserved
from modelfleet_operator.decisions.pool_status import render_pool
from modelfleet_operator.local.state import StateDirectory

CONDITIONS = [
    {"type": "Ready", "status": "True", "reason": "Serving", "message": "1 of 1"},
    {"type": "Stalled", "status": "False", "message": ""},
    {"type": "NameConflict", "status": "False", "message": ""},
]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """The command beside a fleet of one deployment, `chat`, and one pool, `gpus`."""

    def run(*arguments: str) -> tuple[int, str, str]:
        place = ["--state-dir", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["modelfleet", "status", *arguments, *place])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    pool = Pool(namespace="default", name="gpus", template="t", size=3, needs_class=False)
    plan = decide_pool(PoolObserved(pool=pool), 0.0, Failures(), None)
    with StateDirectory(tmp_path).held() as state:
        deployment = {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"namespace": "default", "name": "chat"},
            "spec": {"model": {"source": "hf://owner/name"}},
            "status": {"conditions": CONDITIONS, "replicas": 1, "readyReplicas": 1},
        }
        warm_pool = {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "WarmPool",
            "metadata": {"namespace": "default", "name": "gpus"},
            "spec": {"size": 3},
            "status": render_pool(plan.status),
        }
        state.write_status("default", "chat", deployment)
        state.write_pool("default", "gpus", warm_pool)
        yield run


def test_json_has_deployments_and_then_pools(status: Run):
    code, said, _ = status("-o", "json")
    items = json.loads(said)["items"]
    assert code == 0
    assert [(item["kind"], item["metadata"]["name"]) for item in items] == [
        ("ModelDeployment", "chat"),
        ("WarmPool", "gpus"),
    ]
    assert (items[1]["status"]["standby"], items[1]["status"]["hits"]) == (0, 0)


@pytest.mark.parametrize("name", ["gpus", "default/gpus"])
def test_a_pool_is_found_by_its_name(status: Run, name: str):
    code, said, _ = status(name, "-o", "json")
    (item,) = json.loads(said)["items"]
    assert (code, item["kind"]) == (0, "WarmPool")
    code, said, _ = status(name)
    assert code == 0
    assert "pool gpus: 0 of 3 stand by" in said
    assert "chat" not in said


def test_a_deployments_name_shows_no_pool_and_another_namespace_neither(status: Run):
    _, said, _ = status("chat", "-o", "json")
    assert [item["kind"] for item in json.loads(said)["items"]] == ["ModelDeployment"]
    assert "pool gpus" not in status("chat")[1]
    assert "pool gpus" in status()[1]
    assert "gpus" not in status("-n", "other")[1]

"""What is written when an end-to-end test fails; the cluster is a script in place of kubectl."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from dump import Dump
from kube import Kube

ROOT = Path(__file__).parents[2]

# Answers `kubectl -n NAMESPACE get KIND WHERE -o json` and `logs` from answers.json beside it.
KUBECTL = f"""#!{sys.executable}
import json, pathlib, sys, time
here, (_, namespace, *arguments) = pathlib.Path(__file__).parent, sys.argv[1:]
with (here / "calls").open("a") as calls:
    print(*arguments, file=calls)
answers = json.loads((here / "answers.json").read_text())
for words, answer in answers.items():
    if set(words.split()) <= set(arguments):
        if "hangs" in answer:
            time.sleep(60)
        sys.stderr.write(answer.get("error", ""))
        sys.stdout.write(answer.get("text", "") or json.dumps({{"items": answer.get("items", [])}}))
        sys.exit(1 if "error" in answer else 0)
print(json.dumps({{"items": []}}))
"""


def pod(name: str, namespace: str = "e2e-x", *, ready: bool, **container: Any) -> dict[str, Any]:
    state = {"running": {}} if ready else {"waiting": {"reason": "ImagePullBackOff"}}
    return {
        "metadata": {"name": name, "namespace": namespace, "managedFields": ["noise"]},
        "status": {
            "phase": "Running" if ready else "Pending",
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [
                {"name": "worker", "restartCount": 0, "state": state, **container}
            ],
        },
    }


def event(reason: str, at: str, kind: str = "Normal", **fields: Any) -> dict[str, Any]:
    return {
        "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
        "involvedObject": {"kind": "Pod", "namespace": "e2e-x", "name": "smol-0"},
        "type": kind,
        "reason": reason,
        "message": f"what {reason}\nmeans",
        "lastTimestamp": at,
        **fields,
    }


def cluster(folder: Path, **answers: dict[str, Any]) -> Kube:
    """A cluster that answers so; the key is what must be among kubectl's arguments."""
    kubectl = folder / "kubectl"
    kubectl.write_text(KUBECTL)
    kubectl.chmod(0o755)
    (folder / "answers.json").write_text(json.dumps(answers))
    return Kube(folder / "kubeconfig", kubectl)


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text()))


def test_writes_objects_sorted_events_and_logs(tmp_path: Path):
    late = event("Pulled", "2026-01-01T00:00:09Z")
    early = event("BackOff", "", "Warning", eventTime="2026-01-01T00:00:01.5Z", count=3)
    kube = cluster(
        tmp_path,
        **{
            "get nodes": {"text": "NAME STATUS\nnode-1 Ready\n"},
            "get modeldeployments": {"items": [{"metadata": {"name": "smol"}}]},
            "get pods --namespace=e2e-x": {
                "items": [pod("smol-0", ready=True, restartCount=1), pod("smol-1", ready=False)]
            },
            "get configmaps --namespace=e2e-x": {
                "items": [{"metadata": {"name": name}} for name in ("kube-root-ca.crt", "mine")]
            },
            "get events --namespace=e2e-x": {"items": [late, early]},
            "logs smol-0 --previous": {"text": "the one before\n"},
            "logs smol-0": {"text": "this one\n"},
        },
    )
    summary = Dump(kube, tmp_path / "dump").write("modelfleet-system", "e2e-x")

    read = {file.name: file.read_text() for file in (tmp_path / "dump").rglob("*.*")}
    assert read["nodes.txt"].endswith("node-1 Ready\n")
    assert documents(tmp_path / "dump" / "modeldeployments.yaml") == [
        {"metadata": {"name": "smol"}}
    ]
    assert "noise" not in read["pods.yaml"]
    assert [d["metadata"]["name"] for d in documents(tmp_path / "dump" / "configmaps.yaml")] == [
        "mine"
    ]
    assert {"acceleratorclasses.yaml", "leases.yaml", "controllerrevisions.yaml"} <= read.keys()
    assert read["events.txt"].splitlines() == [
        "2026-01-01T00:00:01.5Z Warning BackOff Pod e2e-x/smol-0: what BackOff means (x3)",
        "2026-01-01T00:00:09Z Normal Pulled Pod e2e-x/smol-0: what Pulled means",
    ]
    assert read["e2e-x.smol-0.worker.log"] == "this one\n"
    assert read["e2e-x.smol-0.worker.previous.log"] == "the one before\n"
    assert not any("smol-1" in name for name in read), "it has not begun"
    assert summary.splitlines() == [
        f"objects, events and logs: {tmp_path / 'dump'}",
        "pods that are not ready:",
        "  e2e-x/smol-1: Pending, worker: ImagePullBackOff",
        "last warnings:",
        "  2026-01-01T00:00:01.5Z Warning BackOff Pod e2e-x/smol-0: what BackOff means (x3)",
    ]
    assert not any("secret" in call.lower() for call in calls(tmp_path))
    assert all("--tail=500" in call for call in calls(tmp_path) if call.startswith("logs"))


def test_what_fails_is_said_and_the_rest_is_written(tmp_path: Path):
    kube = cluster(
        tmp_path,
        **{
            "get modeldeployments": {"error": "the server has no such resource"},
            "get leases": {"hangs": True},
            "get pods": {"items": [pod("smol-0", ready=True)]},
        },
    )
    summary = Dump(kube, tmp_path / "dump", call_timeout=2).write("e2e-x")
    assert "not dumped: kubectl get modeldeployments" in summary
    assert "the server has no such resource" in summary
    assert "not dumped: kubectl get leases" in summary
    assert "timed out" in summary
    assert len(documents(tmp_path / "dump" / "pods.yaml")) == 1


def test_a_dump_has_an_end(tmp_path: Path):
    summary = Dump(cluster(tmp_path), tmp_path / "dump", deadline=0).write("e2e-x")
    assert "no time was left" in summary
    assert not (tmp_path / "calls").exists()


CONFTEST = """
import os, pathlib, pytest
from failures import pytest_runtest_makereport
from kube import Kube

@pytest.fixture(scope="session")
def administrator():
    return Kube(pathlib.Path("kubeconfig"), pathlib.Path(os.environ["KUBECTL"]))

@pytest.fixture
def kube(administrator):
    yield administrator.within("e2e-x")
"""
TESTS = """
import pytest

def test_passes(kube): pass
def test_without_a_cluster(): assert 1 == 2

@pytest.mark.parametrize("what", ["a/b"])
def test_fails(kube, what): assert 3 == 4

@pytest.fixture
def broken(kube): raise RuntimeError("never started")

def test_setup(broken): pass
"""


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param({"get pods": {"items": [pod("smol-1", ready=False)]}}, id="a cluster"),
        pytest.param({"get": {"text": "no json"}}, id="one that makes no sense"),
        pytest.param({"get": {"error": "connection refused"}}, id="one that is gone"),
    ],
)
def test_only_tests_that_fail_on_a_cluster_are_dumped_and_fail_as_they_did(
    tmp_path: Path, answers: dict[str, Any]
):
    kube = cluster(tmp_path, **answers)
    folder = tmp_path / "suite"
    folder.mkdir()
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(textwrap.dedent(TESTS))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={folder}", "."],
        cwd=folder, check=False, capture_output=True, text=True, timeout=60,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'e2e'}:{ROOT / 'e2e' / 'support'}",
            "KUBECTL": str(kube.kubectl_binary),
            "E2E_DUMP_DIR": str(tmp_path / "dumps"),
        },
    )  # fmt: skip
    assert "2 failed, 1 passed, 1 error" in done.stdout, done.stdout + done.stderr
    for failure in ("assert 1 == 2", "assert 3 == 4", "RuntimeError: never started"):
        assert failure in done.stdout
    assert sorted(path.name for path in (tmp_path / "dumps").iterdir()) == [
        "test_fails-a-b",
        "test_setup",
    ]
    assert done.stdout.count("- Cluster -") == 2
    if "get pods" in answers:
        assert str(tmp_path / "dumps" / "test_fails-a-b") in done.stdout
        assert "e2e-x/smol-1: Pending, worker: ImagePullBackOff" in done.stdout

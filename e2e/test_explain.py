"""`modelfleet explain` asks the operator that leads, with the caller's own rights."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from kube import Kube, model_deployment


def explain(kubeconfig: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["modelfleet", "explain", *arguments, "--kubeconfig", str(kubeconfig)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_tells_what_the_leader_sees_and_decides_and_can_be_replayed(kube: Kube, tmp_path: Path):
    kube.apply(model_deployment(scaling={"minReplicas": 1}))
    kube.wait("Ready", "modeldeployment/model")
    saved = tmp_path / "snapshot.json"
    done = explain(kube.kubeconfig, "model", "-n", kube.namespace, "--save", str(saved))
    assert done.returncode == 0, done.stderr
    (pod,) = kube.workers("model")
    assert f"name: {pod['metadata']['name']}" in done.stdout
    assert "Ready=True (Serving)" in done.stdout

    assert json.loads(saved.read_text())["observed"]["deployment"]["namespace"] == kube.namespace
    replayed = subprocess.run(
        ["modelfleet", "explain", "--replay", str(saved)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert replayed.stdout == done.stdout


def test_says_what_is_missing(kube: Kube, tmp_path: Path):
    done = explain(kube.kubeconfig, "none", "-n", kube.namespace)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip() == f"There is no ModelDeployment {kube.namespace}/none."

    kube("create", "serviceaccount", "visitor")
    visitor = kube.as_account("visitor", tmp_path)
    done = explain(visitor.kubeconfig, "none", "-n", kube.namespace)
    assert done.returncode == 1
    assert "403 Forbidden" in done.stderr
    assert "Traceback" not in done.stderr

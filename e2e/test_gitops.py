"""GitOps: the real Argo CD syncs the chart and a model from git; kpt reads their health."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from background import Background
from cluster.argocd import NAMESPACE, start_argocd, stop_argocd
from cluster.cluster import Cluster
from helm import CHART
from installation import Installation
from kube import Kube, Object, eventually, model_deployment
from processes import kill_worker

HEALTH = "resource.customizations.health.modelfleet.dev_ModelDeployment"
BROKEN = [{"name": "MODELFLEET_CALIBRATION", "value": "/gone.json"}]


class Repository:
    """A git repository with the chart and a folder of manifests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(CHART, folder / "chart")
        (folder / "fleet").mkdir()
        self._git("init", "--quiet", "--initial-branch=main")

    @property
    def url(self) -> str:
        return f"file://{self.folder}"

    def commit(self, *manifests: Object) -> str:
        """The fleet is these manifests from now on; returns the commit."""
        (self.folder / "fleet/models.yaml").write_text(yaml.safe_dump_all(manifests))
        self._git("add", "--all")
        who = ("-c", "user.name=e2e", "-c", "user.email=e2e@localhost")
        self._git(*who, "commit", "--quiet", "--message", "The fleet as it should be")
        return self._git("rev-parse", "HEAD")

    def _git(self, *arguments: str) -> str:
        run = ["git", "-C", str(self.folder), *arguments]
        return subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()


class Application(Background):
    """An Application, and every state that it was seen in."""

    def __init__(self, argo: Kube, name: str) -> None:
        super().__init__()
        self._argo, self._name = argo, name
        self.seen: list[tuple[str, str, str]] = []  # commit, sync status, health

    def state(self) -> tuple[str, str, str]:
        status = self._argo.get("application", self._name).get("status", {})
        return (
            status.get("sync", {}).get("revisions", [""])[-1],
            status.get("sync", {}).get("status", ""),
            # The worst of its parts; Argo CD 3 keeps no part's own health in the object.
            status.get("health", {}).get("status", ""),
        )

    def wait_for(self, commit: str, health: str, within: float = 90) -> None:
        """Until this commit is synced and all of it has this health."""
        self._argo.patch(
            "application",
            self._name,
            {"metadata": {"annotations": {"argocd.argoproj.io/refresh": "normal"}}},
        )
        wanted = (commit, "Synced", health)
        eventually(f"{wanted}, found {self.state()}", lambda: self.state() == wanted, within)

    def syncs_of(self, commit: str) -> list[str]:
        """The sync states in which that commit was seen, in order."""
        return [sync for c, sync, _ in self.seen if c == commit]

    def work(self) -> None:
        is_last = False  # what the block waited for is looked at, too
        while not is_last:
            is_last = self.ending.wait(0.3)
            state = self.state()
            if not self.seen or self.seen[-1] != state:
                self.seen.append(state)


@pytest.fixture(scope="module")
def argo(machine: Cluster, administrator: Kube) -> Iterator[Kube]:
    """Argo CD with our health check, as the docs say."""
    start_argocd({HEALTH: (CHART / "files/health.lua").read_text()})
    yield administrator.within(NAMESPACE)
    stop_argocd()


def application(name: str, repository: Repository, installation: Installation, to: str) -> Object:
    """The chart as it is installed, so that Argo CD takes it over, and the fleet."""
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "project": "default",
            "destination": {"server": "https://kubernetes.default.svc", "namespace": to},
            "syncPolicy": {"automated": {}, "syncOptions": ["ServerSideApply=true"]},
            "sources": [
                {
                    "repoURL": repository.url,
                    "path": "chart",
                    "targetRevision": "main",
                    "helm": {
                        "releaseName": installation.release,
                        "namespace": installation.namespace,
                        "valuesObject": installation.open_values(),
                    },
                },
                {"repoURL": repository.url, "path": "fleet", "targetRevision": "main"},
            ],
        },
    }


def model(kube: Kube, **spec: Any) -> Object:
    manifest = model_deployment("gitops", scaling={"minReplicas": 2, "maxReplicas": 2}, **spec)
    manifest["metadata"]["namespace"] = kube.namespace
    return manifest


def ready(kube: Kube) -> int:
    return int(kube.model("gitops")["status"].get("readyReplicas", 0))


def broken(kube: Kube) -> Object:
    manifest = model(kube)
    manifest["spec"]["podTemplate"]["spec"]["containers"][0]["env"] += BROKEN
    return manifest


def test_argo_cd_syncs_a_commit_and_knows_its_health(
    kube: Kube, argo: Kube, installation: Installation, tmp_path: Path
):
    repository = Repository(tmp_path / "repository")
    first = repository.commit(model(kube))
    argo.apply(application("fleet", repository, installation, kube.namespace))
    try:
        with Application(argo, "fleet") as fleet:
            fleet.wait_for(first, "Healthy", 240)  # Argo CD reads the whole cluster first
            kill_worker(kube.workers("gitops")[0])  # the operator has much to write about it
            eventually("it is replaced", lambda: ready(kube) < 2)
            eventually("it is whole again", lambda: ready(kube) == 2)
            second = repository.commit(broken(kube))
            fleet.wait_for(second, "Degraded")
            third = repository.commit(model(kube, engine={"maxSequences": 8}))
            fleet.wait_for(third, "Healthy")
        seen = iter(health for _, _, health in fleet.seen)
        for health in (
            "Progressing",
            "Healthy",
            "Progressing",
            "Degraded",
            "Progressing",
            "Healthy",
        ):
            assert health in seen, f"no {health} where it belongs: {fleet.seen}"
        for commit in (first, second, third):
            syncs = fleet.syncs_of(commit)
            assert "OutOfSync" not in syncs[syncs.index("Synced") :], fleet.seen
    finally:
        argo("delete", "application", "fleet")  # without cascading: what it made stays


def test_kpt_wait_for_a_model_as_for_any_other_object(kube: Kube, tmp_path: Path):
    """`kpt live` reads the conditions by the rules of kstatus, as Flux does."""
    kpt = shutil.which("kpt")
    if kpt is None:
        pytest.skip("kpt is not on this machine")
    package = tmp_path / "package"
    package.mkdir()
    (package / "model.yaml").write_text(yaml.safe_dump(model(kube)))

    def live(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [kpt, *arguments],
            cwd=package,
            env={
                "KUBECONFIG": str(kube.kubeconfig),
                "PATH": "/usr/bin:/bin",
                "HOME": str(tmp_path),
            },
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )

    for step in (
        ["pkg", "init", "."],
        ["live", "init", ".", "--namespace", kube.namespace],
        ["live", "install-resource-group"],
    ):
        done = live(*step)
        assert done.returncode == 0, done.stderr
    applied = live("live", "apply", ".", "--reconcile-timeout=90s", "--output=json")
    assert applied.returncode == 0, applied.stdout + applied.stderr
    assert '"status":"Current"' in live("live", "status", ".", "--output=json").stdout.replace(
        " ", ""
    )

    (package / "model.yaml").write_text(yaml.safe_dump(broken(kube)))
    failed = live("live", "apply", ".", "--reconcile-timeout=60s", "--output=json")
    assert failed.returncode != 0 or "Failed" in failed.stdout, failed.stdout
    statuses = [json.loads(line) for line in failed.stdout.splitlines() if line.startswith("{")]
    assert any("Failed" in json.dumps(status) for status in statuses)
    destroyed = live("live", "destroy", ".")
    assert destroyed.returncode == 0, destroyed.stderr

"""The cluster under test, reached as its users reach it: through kubectl.

But for what tests read again and again (api_reads.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from api_reads import is_read_here, read
from cluster.commands import BRIEF

T = TypeVar("T")
Object = dict[str, Any]


def eventually(what: str, condition: Callable[[], T], within: float = 60) -> T:
    """The first true value that `condition` returns; fails when `within` seconds bring none."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(0.2)
    return found


@dataclass(frozen=True)
class Kube:
    """One cluster and one namespace of it."""

    kubeconfig: Path
    kubectl_binary: Path = Path("kubectl")
    namespace: str = "default"

    def within(self, namespace: str) -> Kube:
        """The same cluster, another namespace."""
        return Kube(self.kubeconfig, self.kubectl_binary, namespace)

    def as_account(self, name: str, folder: Path) -> Kube:
        """The cluster as a ServiceAccount of this namespace may use it, and with nothing else."""
        config = json.loads(self("config", "view", "--raw", "--flatten", "-o", "json"))
        # A client certificate would win over a token that is only added.
        token = {"token": self("create", "token", name).strip()}
        config["users"] = [{**user, "user": token} for user in config["users"]]
        file = folder / f"{name}.kubeconfig"
        file.write_text(json.dumps(config))
        return replace(self, kubeconfig=file)

    def run(
        self, *arguments: str, stdin: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Kubectl as it is, whatever its exit code."""
        return subprocess.run(
            [str(self.kubectl_binary), "-n", self.namespace, *arguments],
            env={**os.environ, **BRIEF, "KUBECONFIG": str(self.kubeconfig)},
            input=stdin,
            text=True,
            capture_output=True,
            timeout=timeout,
            check=False,
        )

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
        """What kubectl prints; a failure of it fails the test with its words."""
        ended = self.run(*arguments, stdin=stdin, timeout=timeout)
        assert ended.returncode == 0, f"kubectl {' '.join(arguments)}: {ended.stderr.strip()}"
        return ended.stdout

    def apply(self, *manifests: Object) -> None:
        """As a person would."""
        self("apply", "-f", "-", stdin=yaml.safe_dump_all(manifests))

    def get(self, *what: str) -> Object:
        """One object; fails the test if it is not there."""
        if len(what) == 2 and is_read_here(what[0]):
            there = self.find(*what)
            assert there is not None, f"{' '.join(what)} is not there"
            return there
        found: Object = json.loads(self("get", *what, "-o", "json"))
        return found

    def find(self, kind: str, name: str) -> Object | None:
        """One object, or None."""
        if is_read_here(kind):
            found: Object | None = read(self.kubeconfig, self.namespace, kind, name)
            return found
        text = self("get", "--ignore-not-found", kind, name, "-o", "json")
        return json.loads(text) if text.strip() else None

    def items(self, kind: str, selector: str = "") -> list[Object]:
        """All objects of a kind in the namespace."""
        if is_read_here(kind):
            listed: list[Object] = read(self.kubeconfig, self.namespace, kind, "", selector)[
                "items"
            ]
            return listed
        wanted = ["-l", selector] if selector else []
        found: list[Object] = json.loads(self("get", kind, *wanted, "-o", "json"))["items"]
        return found

    def patch(self, kind: str, name: str, patch: Object, *flags: str) -> None:
        """A merge patch."""
        self("patch", kind, name, "--type=merge", "-p", json.dumps(patch), *flags)

    def wait(self, condition: str, what: str, within: float = 60) -> None:
        """`kubectl wait --for=condition=...`: what a user's script would do."""
        timeout = f"--timeout={within:g}s"
        self("wait", f"--for=condition={condition}", timeout, what, timeout=within + 10)

    def model(self, name: str) -> Object:
        """A ModelDeployment."""
        return self.get("modeldeployment", name)

    def condition(self, name: str, type_: str) -> Object:
        """One condition of a ModelDeployment; empty if there is none."""
        conditions = self.model(name).get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == type_), {})

    def workers(self, name: str) -> list[Object]:
        """The worker pods of a ModelDeployment that are not being deleted."""
        pods = self.items("pods", f"modelfleet.dev/deployment={name}")
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def model_deployment(name: str = "model", **spec: Any) -> Object:
    """A ModelDeployment of paced workers: real pods and processes that need no accelerator."""
    paced = {"containers": [{"name": "worker", "env": [_PACED]}]}
    return {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {
            "model": {"source": "hf://modelfleet/paced"},
            "podTemplate": {"spec": paced},
            **spec,
        },
    }


_PACED = {"name": "MODELFLEET_DEVICE", "value": "paced"}

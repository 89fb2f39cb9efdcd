"""Modelfleet on a cluster, installed as its users install it: with helm."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cluster.cluster import Cluster
from helm import CHART, succeed
from images import operator_image, worker_image
from kube import Kube

NAMESPACE = "modelfleet-system"
# What the worker image's e2e target leaves out: torch, as this environment has it installed.
TORCH = Path(sys.prefix) / "lib" / "python3.11" / "site-packages"
MODELS = Path.home() / ".cache" / "modelfleet" / "models"
"""Folders of this machine that workers may mount, as an administrator would have prepared them."""


@dataclass
class Installation:
    """One release of the chart."""

    kube: Kube
    release: str = "modelfleet"
    namespace: str = NAMESPACE
    operator: str = field(default_factory=lambda: os.environ.get("MODELFLEET_OPERATOR_IMAGE", ""))
    worker: str = field(default_factory=lambda: os.environ.get("MODELFLEET_WORKER_IMAGE", ""))

    def load_images(self, machine: Cluster) -> None:
        """Builds what changed, and gives it to every node."""
        operator, worker = operator_image(), worker_image()
        for image in (operator, worker):
            machine.load_image(image.archive, image.reference)
        self.operator, self.worker = operator.reference, worker.reference

    def values(self) -> dict[str, Any]:
        """Small, and quick to notice: the defaults of a chart are for larger machines."""
        return {
            "images": {
                "operator": _image(self.operator),
                "worker": _image(self.worker),
            },
            "operator": {"resources": {"requests": {"cpu": "50m", "memory": "128Mi"}}},
            "gateway": {"resources": {"requests": {"cpu": "50m", "memory": "128Mi"}}},
            "worker": {"hostPaths": [str(TORCH), str(MODELS)]},
        }

    def open_values(
        self, chart: Path = CHART, changes: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """No key is asked for unless the changes say so: most stories are about other things."""
        chosen = {**self.values(), **(changes or {})}
        if "auth" in yaml.safe_load((chart / "values.yaml").read_text())["gateway"]:
            chosen["gateway"] = {"auth": {"required": False}, **chosen["gateway"]}
        return chosen

    def install(self, chart: Path = CHART, changes: Mapping[str, Any] | None = None) -> None:
        """`helm upgrade --install --wait`; fails the test with helm's words."""
        chosen = self.open_values(chart, changes)
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as values:
            yaml.safe_dump(chosen, values)
            self._helm(
                "upgrade", "--install", self.release, str(chart), "--create-namespace", "--wait",
                "--timeout", "3m", "--values", values.name,
            )  # fmt: skip

    def uninstall(self) -> None:
        """`helm uninstall --wait`."""
        self._helm("uninstall", self.release, "--wait")

    def _helm(self, *arguments: str) -> None:
        succeed(*arguments, "--namespace", self.namespace, kubeconfig=self.kube.kubeconfig)

    def endpoint(self) -> str:
        """The gateway's address on the service network, which this machine is connected to."""
        system = self.kube.within(self.namespace)
        (service,) = system.items("services", "app.kubernetes.io/component=gateway")
        address = service["spec"]["clusterIP"]
        return f"http://{address}:{service['spec']['ports'][0]['port']}"

    def gateways(self) -> dict[str, str]:
        """Name of the node -> http://HOST:PORT of the gateway's pod there."""
        pods = self.pods("gateway")
        return {pod["spec"]["nodeName"]: f"http://{pod['status']['podIP']}:8080" for pod in pods}

    def pods(self, component: str) -> list[dict[str, Any]]:
        """Pods of `operator` or `gateway` that are not being deleted."""
        found = self.kube.within(self.namespace).items(
            "pods", f"app.kubernetes.io/component={component}"
        )
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def leader(self) -> dict[str, Any]:
        """The operator's pod that has the Lease."""
        lease = self.kube.within(self.namespace).get("lease", f"{self.release}-operator")
        name = lease["spec"]["holderIdentity"].partition("@")[0]
        return next(pod for pod in self.pods("operator") if pod["metadata"]["name"] == name)


def _image(reference: str) -> dict[str, str]:
    repository, _, tag = reference.rpartition(":")
    return {"repository": repository, "tag": tag}

"""Watches that the status says what is there: polls both, and remembers where they differ."""

from __future__ import annotations

import time

from background import Background
from kube import Kube, Object

TIMEOUT = 10.0  # seconds that status may take to follow; the kubelet reports a pod's end late


class Truth(Background):
    """Polls a ModelDeployment and its pods until the block ends."""

    def __init__(self, kube: Kube, name: str) -> None:
        super().__init__()
        self._kube, self._name = kube, name
        self._since: dict[str, float] = {}  # lie -> since when, monotonic
        self.comparisons = 0
        self.lies: dict[str, float] = {}  # lie -> how long it lasted, seconds

    def check(self) -> None:
        """No difference lasted longer than the watches need."""
        assert self.comparisons, "it was never compared"
        told = {lie: seconds for lie, seconds in self.lies.items() if seconds > TIMEOUT}
        assert not told, told

    def work(self) -> None:
        while not self.ending.wait(1.0):
            model = self._kube.find("modeldeployment", self._name)
            if model is None or "status" not in model:
                continue
            pods = self._kube.items("pods", f"modelfleet.dev/deployment={self._name}")
            self.comparisons += 1
            now = time.monotonic()
            lies = set(_lies(model["status"], pods))
            self._since = {lie: self._since.get(lie, now) for lie in lies}
            for lie, since in self._since.items():
                self.lies[lie] = max(self.lies.get(lie, 0.0), now - since)


def _lies(status: Object, pods: list[Object]) -> list[str]:
    alive = [
        pod
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        and pod["status"]["phase"] in ("Pending", "Running")
    ]
    ready = [pod for pod in alive if _is_ready(pod)]
    claimed, serving = status.get("replicas", 0), status.get("readyReplicas", 0)
    said = next((c for c in status["conditions"] if c["type"] == "Ready"), {})
    lies = []
    if claimed != len(alive):
        lies.append(f"status.replicas is {claimed}, and {len(alive)} pods exist")
    if serving > len(ready):
        lies.append(f"status.readyReplicas is {serving}, and {len(ready)} pods are ready")
    if said.get("status") == "True" and said["reason"] != "Asleep" and not ready:
        lies.append(f"Ready says {said['reason']}, and no pod is ready")
    if said.get("reason") == "Asleep" and alive:
        lies.append(f"it says Asleep, and {len(alive)} pods exist")
    return lies


def _is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

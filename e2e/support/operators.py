"""Operators as processes of this machine, so that a test can kill and stop them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kube import Kube, Object, eventually

MODELFLEET = Path(sys.prefix) / "bin" / "modelfleet"
LEASE = "modelfleet-operator"
NOWHERE = {"modelfleet.dev/nowhere": "true"}  # a label that no node has


@dataclass
class HostOperator:
    """One replica for the namespace of a test; its pods go nowhere, since no test needs them to."""

    kube: Kube
    process: subprocess.Popen[bytes]
    fleet: str
    probes: str
    log: Path

    @classmethod
    def start(cls, kube: Kube) -> HostOperator:
        """Begins; see `is_ready`."""
        fleet, probes = (f"127.0.0.1:{_free_port()}" for _ in range(2))
        descriptor, log = tempfile.mkstemp(prefix="modelfleet-operator-", suffix=".log")
        with os.fdopen(descriptor, "wb") as output:
            process = subprocess.Popen(
                [
                    *(str(MODELFLEET), "operator", "--worker-image=localhost/no/such:image"),
                    *(f"--kubeconfig={kube.kubeconfig}", f"--namespace={kube.namespace}"),
                    *(f"--lease-namespace={kube.namespace}", f"--lease-name={LEASE}"),
                    *(f"--fleet-listen={fleet}", f"--metrics-listen={probes}"),
                    "--log-format=json",
                ],
                stdout=output,
                stderr=output,
            )
        return cls(kube, process, fleet, probes, Path(log))

    def is_ready(self) -> bool:
        """It has seen the cluster: it leads, or it could."""
        self._is_alive()
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://{self.probes}/readyz", timeout=1)
            return True
        return False

    def leads(self) -> bool:
        """By the Lease."""
        self._is_alive()
        return holder(self.kube).endswith(f"@{self.fleet}")

    def _is_alive(self) -> None:
        assert self.process.poll() is None, f"it ended: {self.said()[-2000:]}"

    def send(self, number: signal.Signals) -> None:
        """A signal."""
        self.process.send_signal(number)

    def ended(self, within: float) -> int:
        """Waits for its end; the exit code, negative for a signal."""
        return self.process.wait(within)

    def said(self) -> str:
        """Its log."""
        return self.log.read_text()


@contextlib.contextmanager
def operators(kube: Kube, count: int) -> Iterator[list[HostOperator]]:
    """The first of them leads."""
    started: list[HostOperator] = []
    try:
        for _ in range(count):
            started.append(HostOperator.start(kube))
            eventually("the operator is ready", started[-1].is_ready, 60)
            eventually("the first one leads", started[0].leads, 30)
        yield started
    finally:
        for operator in started:
            if operator.process.poll() is None:
                operator.process.kill()
            operator.process.wait(10)
            operator.log.unlink()


def holder(kube: Kube) -> str:
    """The identity that has the Lease; empty: none."""
    lease = kube.find("lease", LEASE) or {"spec": {}}
    identity: str = lease["spec"].get("holderIdentity") or ""
    return identity


def waiting_deployment(name: str, replicas: int) -> Object:
    """A ModelDeployment whose pods wait for a node for ever: they are counted, not run."""
    return {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {
            "model": {"source": "hf://modelfleet/none"},
            "scaling": {"minReplicas": replicas, "maxReplicas": 100},
            "podTemplate": {"spec": {"nodeSelector": NOWHERE}},
        },
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

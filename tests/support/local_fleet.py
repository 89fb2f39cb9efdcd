"""A real fleet for tests: `modelfleet up` as a process, its children, its endpoint."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import yaml

from clients import openai_client, tls

SMOLLM2 = "hf://HuggingFaceTB/SmolLM2-135M-Instruct"

Manifest = dict[str, Any]
StartFleet = Callable[..., "Fleet"]  # manifests and flags of `modelfleet up`


def eventually(what: str, condition: Callable[[], Any], within: float = 120) -> Any:
    """The first true value that `condition` returns; fails when `within` seconds bring none."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        time.sleep(0.05)
    return found


@dataclass
class Fleet:
    """One `modelfleet up`, what it started, and how a client reaches it."""

    up: psutil.Popen
    endpoint: str
    state: Path
    log: Path
    seen: set[psutil.Process] = field(default_factory=set)

    def client(self) -> openai.AsyncOpenAI:
        """Never retries by itself: a refusal that it would hide is a failure of the test."""
        return openai_client(self.endpoint, timeout=240)

    def gateway_is_ready(self) -> bool:
        """Fails at once, with the log, when `up` has ended."""
        assert self.up.poll() is None, f"`up` ended:\n{self.log.read_text()}"
        try:
            return httpx.get(f"{self.endpoint}/readyz", verify=tls()).is_success
        except httpx.TransportError:
            return False

    def children(self, module: str) -> list[psutil.Process]:
        """Live processes that `up` started, by the Python module they run."""
        found = []
        for process in self.up.children(recursive=True):
            try:
                if module in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        self.seen.update(found)
        return found

    def workers(self) -> list[psutil.Process]:
        return self.children("modelfleet_worker")

    def status(self, name: str = "smollm2") -> dict[str, Any]:
        """What `kubectl get -o yaml` would show on a cluster; empty before the first write."""
        for file in self.state.rglob(f"{name}.yaml"):
            return dict((yaml.load(file.read_text(), yaml.CSafeLoader) or {}).get("status") or {})
        return {}

    def condition(self, kind: str, name: str = "smollm2") -> dict[str, Any]:
        """One condition of the status; empty when it is absent."""
        conditions = self.status(name).get("conditions", [])
        return next((c for c in conditions if c["type"] == kind), {})

    def is_ready(self, name: str = "smollm2") -> bool:
        return self.condition("Ready", name).get("status") == "True"

    def is_asleep(self, name: str = "smollm2") -> bool:
        return self.condition("Ready", name).get("reason") == "Asleep" and not self.workers()

    def gateway_metric(self, name: str) -> float:
        """The sum of a metric of the gateway over its labels."""
        address = (self.state / "run" / "gateway-metrics").read_text()
        text = httpx.get(f"http://{address}/metrics", verify=tls()).text
        lines = [line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ends the fleet as a person would; returns the exit code."""
        if self.up.poll() is None:
            self.seen.update(self.up.children(recursive=True))
            self.up.send_signal(number)
        return int(self.up.wait(timeout=180))

    def end_for_good(self) -> None:
        """SIGKILL for whatever a failed test left of this fleet."""
        if self.up.poll() is None:
            self.seen.update(self.up.children(recursive=True))
            self.up.kill()
            self.up.wait()
        for process in self.seen:
            if process.is_running():  # still the one that was seen, not another with its id
                process.kill()


def free_port() -> int:
    """Below those that the system gives to connections: nothing else takes it until it is used."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def manifest(name: str = "smollm2", *, source: str = SMOLLM2, **spec: Any) -> Manifest:
    """A ModelDeployment with one replica; float32, so that texts are equal to the token."""
    model = {"source": source, "dtype": "Float32"} | spec.pop("model", {})
    scaling = {"minReplicas": 1, "maxReplicas": 1} | spec.pop("scaling", {})
    return {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {"model": model, "scaling": scaling, **spec},
    }

"""Chaos under load: whatever happens to its parts, each stream is the undisturbed one, to the byte.

A minute of it here; `make soak` is ten minutes, with a fault every 15 s.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from chaos import Question, Streams, rounds
from claims import fill_claim
from installation import MODELS, Installation
from kube import Kube, Object, eventually, model_deployment
from processes import worker_processes
from tiny_model import write_tiny_model
from tool_templates import HERMES_WITHOUT_REASONING

SECONDS = float(os.environ.get("SOAK_SECONDS", "49"))
EVERY = min(15.0, SECONDS / 7)  # seconds between faults: each kind comes at least once
SEED = int(os.environ.get("SOAK_SEED", "7"))
TEXT_STREAMS, FORMAT_STREAMS = 21, 11
SMOLLM2 = MODELS / "HuggingFaceTB/SmolLM2-135M-Instruct"
WORD = {"type": "string", "pattern": "^[a-z]{3,12}$"}
SCHEMA = {
    "type": "object",
    "properties": {"words": {"type": "array", "items": WORD, "minItems": 12, "maxItems": 12}},
    "required": ["words"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "list_words", "strict": True, "parameters": SCHEMA},
}
FORMATS: tuple[dict[str, Any], ...] = (
    {"response_format": {"type": "json_schema", "json_schema": {"name": "w", "schema": SCHEMA}}},
    {"tools": [TOOL], "tool_choice": "required"},
)
# Few enough tokens that long prompts fill the cache.
PACE = {"step_seconds": 0.015, "kv_tokens": 8192, "max_sequences": 24}

pytestmark = pytest.mark.timeout(SECONDS + 600)


@pytest.fixture
def fleet(kube: Kube, installation: Installation, tmp_path: Path) -> Kube:
    """A paced model for texts, and a small real one for what is held to a format."""
    for path in [tmp_path, *tmp_path.parents[:3]]:
        path.chmod(0o755)
    write_tiny_model(tmp_path / "tiny", SMOLLM2, hidden=128)  # as the compiled step takes it
    (tmp_path / "tiny" / "chat_template.jinja").write_text(HERMES_WITHOUT_REASONING)
    for path in (tmp_path / "tiny").iterdir():
        path.chmod(0o644)
    fill_claim(kube, installation.worker, tmp_path / "tiny")
    pace = {"metadata": {"name": "pace"}, "data": {"pace.json": json.dumps(PACE)}}
    kube.apply({"apiVersion": "v1", "kind": "ConfigMap", **pace}, paced("text"), real("formats"))
    for name in ("text", "formats"):
        kube.wait("Ready", f"modeldeployment/{name}", 90)
        eventually(f"{name} is whole", lambda name=name: ready(kube, name) == 2, 60)
    return kube


def paced(name: str) -> Object:
    model = model_deployment(name, scaling={"minReplicas": 2, "maxReplicas": 2})
    pod = model["spec"]["podTemplate"]["spec"]
    pod["volumes"] = [{"name": "pace", "configMap": {"name": "pace"}}]
    (worker,) = pod["containers"]
    worker["env"] = [*worker["env"], {"name": "MODELFLEET_CALIBRATION", "value": "/pace/pace.json"}]
    worker["volumeMounts"] = [{"name": "pace", "mountPath": "/pace"}]
    return model


def real(name: str) -> Object:
    small = {"requests": {"cpu": "50m", "memory": "256Mi"}}
    env = [{"name": "MODELFLEET_DEVICE", "value": "cpu"}]
    worker = {"name": "worker", "env": env, "resources": small}
    return model_deployment(
        name,
        model={"source": "pvc://models/tiny"},
        scaling={"minReplicas": 2, "maxReplicas": 2},
        engine={"kvCacheMemory": "1Mi"},
        podTemplate={"spec": {"containers": [worker]}},
    )


def questions(gateway: str, namespace: str) -> list[list[Question]]:
    """Of each client: two thirds ask for texts, one third for calls and schemas."""
    url = f"{gateway}/v1/chat/completions"

    def ask(model: str, number: int, **fields: Any) -> Question:
        said = [{"role": "user", "content": f"Question {number}: what is new in {number * 7}?"}]
        body = {"model": f"{namespace}/{model}", "messages": said, "seed": number}
        return Question(url, {**body, "max_tokens": 160, **fields})

    texts = [[ask("text", n % 8, ignore_eos=True)] for n in range(TEXT_STREAMS)]
    formats = [
        [ask("formats", n % 4, temperature=0.9, **FORMATS[(n + i) % 2]) for i in range(2)]
        for n in range(FORMAT_STREAMS)
    ]
    return texts + formats


class Faults:
    """What happens to the fleet, one thing at a time."""

    def __init__(
        self, kube: Kube, installation: Installation, streams: Streams, chance: random.Random
    ) -> None:
        self._kube, self._installation = kube, installation
        self._streams, self._chance = streams, chance
        self._stopped: list[psutil.Process] = []

    @property
    def all(self) -> list[Any]:
        return [
            self.kill_a_worker, self.end_a_worker, self.stop_a_worker, self.restart_the_operator,
            self.restart_a_gateway, self.fill_the_caches, self.drop_clients,
        ]  # fmt: skip

    def kill_a_worker(self) -> None:
        for process in self._victim():
            process.kill()

    def end_a_worker(self) -> None:
        for process in self._victim():
            process.terminate()

    def stop_a_worker(self) -> None:
        """It goes on with the end of the test; by then it has been replaced."""
        for process in self._victim():
            process.suspend()
            self._stopped.append(process)

    def restart_the_operator(self) -> None:
        self._delete(self._installation.leader())

    def restart_a_gateway(self) -> None:
        self._delete(self._chance.choice(self._installation.pods("gateway")))

    def fill_the_caches(self) -> None:
        """Prompts that take all of both caches, and whose answers nobody waits for."""
        url = self._installation.endpoint()
        for number in range(24):
            said = " ".join(f"word{number}-{i}" for i in range(700 if number % 2 else 120))
            body = {
                "model": f"{self._kube.namespace}/{'text' if number % 2 else 'formats'}",
                "messages": [{"role": "user", "content": said}],
                "max_tokens": 30,
                "stream": True,
            }
            with contextlib.suppress(httpx.HTTPError):
                httpx.post(f"{url}/v1/chat/completions", json=body, timeout=0.15)

    def drop_clients(self) -> None:
        self._streams.drop_a_third(self._chance)

    def resume(self) -> None:
        """What was stopped and is still there goes on."""
        for process in self._stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def _victim(self) -> list[psutil.Process]:
        pods = [*self._kube.workers("text"), *self._kube.workers("formats")]
        running = [pod for pod in pods if worker_processes(pod["metadata"]["uid"])]
        return worker_processes(self._chance.choice(running)["metadata"]["uid"])

    def _delete(self, pod: Object) -> None:
        system = self._installation.kube.within(self._installation.namespace)
        system("delete", "pod", pod["metadata"]["name"], "--wait=false")


def test_no_fault_changes_a_byte_of_32_streams(
    fleet: Kube, installation: Installation, gateway: str
):
    chance = random.Random(SEED)
    streams = Streams(questions(gateway, fleet.namespace))
    streams.learn()
    faults = Faults(fleet, installation, streams, chance)
    with streams:
        eventually("all streams run", lambda: streams.outcome.answered >= 32, 60)
        before = memory(fleet, installation)
        try:
            happened = rounds(faults.all, SECONDS, EVERY, chance)
        finally:
            faults.resume()
    outcome = streams.outcome
    print(f"{Counter(happened)}: {outcome.answered} answered, {outcome.dropped} dropped by their ")
    print(f"clients, {outcome.reconnected} connected anew before an answer began")
    streams.check()
    assert outcome.answered > SECONDS
    assert outcome.dropped
    eventually("nothing runs for anybody", lambda: is_idle(fleet, installation), 30)
    after = memory(fleet, installation)
    print(f"memory before {before}, after {after}")
    for part, most in after.items():
        assert most < 1.25 * before[part] + 24e6, (part, before, after)


def ready(kube: Kube, name: str) -> int:
    return int(kube.model(name)["status"].get("readyReplicas", 0))


def metrics(installation: Installation) -> list[tuple[str, dict[str, str], float]]:
    """Of all gateways: name, labels, value."""
    found = []
    for pod in installation.pods("gateway"):
        with contextlib.suppress(httpx.TransportError):  # it is just starting
            text = httpx.get(f"http://{pod['status']['podIP']}:9091/metrics", timeout=10).text
            for family in text_string_to_metric_families(text):
                found += [(s.name, s.labels, s.value) for s in family.samples]
    return found


def is_idle(kube: Kube, installation: Installation) -> bool:
    """No gateway waits or has a slot, no worker computes or holds a block for a request."""
    busy = {
        f"modelfleet_gateway_{name}"
        for name in ("queue_depth", "in_flight", "worker_running", "worker_waiting")
    } | {"modelfleet_gateway_kv_cache_usage_ratio"}
    models = {f"{kube.namespace}/{name}" for name in ("text", "formats")}
    found = [
        (labels["model"], value)
        for name, labels, value in metrics(installation)
        if name in busy and labels.get("model") in models
    ]
    return {model for model, _ in found} == models and not any(value for _, value in found)


def memory(kube: Kube, installation: Installation) -> dict[str, float]:
    """Bytes of the largest process of each kind."""
    sizes = {
        name: max(
            process.memory_info().rss
            for pod in kube.workers(name)
            for process in worker_processes(pod["metadata"]["uid"])
        )
        for name in ("text", "formats")
    }
    resident = "process_resident_memory_bytes"
    gateways = [value for name, _, value in metrics(installation) if name == resident]
    return {**sizes, "gateway": max(gateways)}

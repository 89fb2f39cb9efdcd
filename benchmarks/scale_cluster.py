"""What the scale benchmark asks of a cluster: fake nodes, many ModelDeployments, edits, a watch."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubernetes.aio import client

GROUP, VERSION, PLURAL = "modelfleet.dev", "v1alpha1", "modeldeployments"
FAKE = "kwok.x-k8s.io/node"  # annotation and taint of nodes that kwok plays
CLASS = "benchmark-fake"
NODE_PODS = 500
STANDBYS = 2  # of each pool
STAGES = ("node/fast/node-initialize", "pod/fast/pod-ready", "pod/fast/pod-delete")
AT_ONCE = 20  # requests of the benchmark at the same time


def node(number: int) -> dict[str, Any]:
    """Enough for `NODE_PODS` pods; only what tolerates the taint comes here."""
    resources = {"cpu": "1k", "memory": "10Ti", "pods": str(NODE_PODS)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": f"benchmark-fake-{number}",
            "annotations": {FAKE: "fake", "node.alpha.kubernetes.io/ttl": "0"},
            "labels": {FAKE: "fake", "kubernetes.io/os": "linux"},
        },
        "spec": {"taints": [{"key": FAKE, "value": "fake", "effect": "NoSchedule"}]},
        "status": {"capacity": resources, "allocatable": resources},
    }


def class_names(count: int) -> list[str]:
    """The deployments name the first; the others are there, as in a large cluster."""
    return [CLASS, *(f"{CLASS}-{number}" for number in range(1, count))]


def accelerator_class(name: str) -> dict[str, Any]:
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "AcceleratorClass",
        "metadata": {"name": name},
        "spec": {
            "nodeSelector": {FAKE: "fake"},
            "tolerations": [{"key": FAKE, "operator": "Exists"}],
        },
    }


def deployment(number: int, replicas: int) -> dict[str, Any]:
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "ModelDeployment",
        "metadata": {"name": f"model-{number}"},
        "spec": {
            "model": {"source": "hf://benchmark/model"},
            "scaling": {"minReplicas": replicas},  # and so many at most: edits move both
            "placement": {"accelerators": [CLASS]},
        },
    }


def pool(number: int) -> dict[str, Any]:
    """Its standbys are too small to be claimed: nothing would answer the call that loads a model.

    So each deployment is offered every pool, and each pool's pods are watched and kept.
    """
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "WarmPool",
        "metadata": {"name": f"pool-{number}"},
        "spec": {"accelerator": CLASS, "size": STANDBYS, "memory": "1Mi"},
    }


@dataclass
class Seen:
    """The latest of one ModelDeployment, as the benchmark's own watch brought it."""

    generation: int
    min_replicas: int
    status: dict[str, Any]

    @property
    def is_right(self) -> bool:
        return (
            self.status.get("observedGeneration") == self.generation
            and self.status.get("replicas") == self.min_replicas
        )


@dataclass
class Edit:
    """`acknowledged` and `observed`: seconds on the benchmark's clock."""

    name: str
    generation: int
    acknowledged: float
    observed: float | None = None


@dataclass
class Fleet:
    """All ModelDeployments of the benchmark's namespace, watched."""

    api_client: client.ApiClient
    namespace: str
    seen: dict[str, Seen] = field(default_factory=dict)
    waiting: dict[str, list[Edit]] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.objects = client.CustomObjectsApi(self.api_client)
        self.core = client.CoreV1Api(self.api_client)

    async def create(self, numbers: Iterable[int], replicas: int) -> None:
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with slots:
                await self.objects.create_namespaced_custom_object(
                    GROUP, VERSION, self.namespace, PLURAL, deployment(number, replicas)
                )

        await asyncio.gather(*(one(number) for number in numbers))

    async def create_pools(self, count: int) -> None:
        for number in range(count):
            await self.objects.create_namespaced_custom_object(
                GROUP, VERSION, self.namespace, "warmpools", pool(number)
            )

    async def edit(self, name: str, spec: dict[str, Any]) -> Edit:
        """Its time begins when the API server has acknowledged it."""
        changed: Any = await self.objects.patch_namespaced_custom_object(
            GROUP,
            VERSION,
            self.namespace,
            PLURAL,
            name,
            {"spec": spec},
            _content_type="application/merge-patch+json",
        )
        made = Edit(name, changed["metadata"]["generation"], time.monotonic())
        if self.seen[name].status.get("observedGeneration", 0) >= made.generation:
            made.observed = made.acknowledged  # the watch was faster than the answer
        else:
            self.waiting.setdefault(name, []).append(made)
        return made

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self) -> None:
        version = ""
        while True:
            response: Any = await (
                self.objects.list_namespaced_custom_object_without_preload_content(
                    GROUP,
                    VERSION,
                    self.namespace,
                    PLURAL,
                    watch=True,
                    resource_version=version,
                    _request_timeout=3600,
                )
            )
            async with response:
                async for line in response.content:
                    event = json.loads(line)
                    version = self._note(event["type"], event["object"])

    def _note(self, kind: str, obj: dict[str, Any]) -> str:
        metadata, status = obj["metadata"], obj.get("status", {})
        name = metadata["name"]
        if kind == "DELETED":
            self.seen.pop(name, None)
        else:
            wanted = obj["spec"]["scaling"]["minReplicas"]
            self.seen[name] = Seen(metadata["generation"], wanted, status)
            now, observed = time.monotonic(), status.get("observedGeneration", 0)
            for edit in self.waiting.get(name, ()):
                if edit.observed is None and observed >= edit.generation:
                    edit.observed = now
            self.waiting[name] = [e for e in self.waiting.get(name, ()) if e.observed is None]
        self.changed.set()
        return str(metadata["resourceVersion"])

    async def observed(self, made: list[Edit], within: float) -> None:
        """Every edit shows in a status."""
        async with asyncio.timeout(within):
            while any(edit.observed is None for edit in made):
                self.changed.clear()
                await self.changed.wait()

    async def settled(self, count: int, within: float) -> None:
        """Every status says what is there and what was asked for."""
        async with asyncio.timeout(within):
            while len(self.seen) != count or not all(s.is_right for s in self.seen.values()):
                self.changed.clear()
                await self.changed.wait()
                await asyncio.sleep(0.1)

    async def pods(self) -> dict[str, int]:
        """How many there are, how many are bound and how many run."""
        listed: Any = await self.core.list_namespaced_pod_without_preload_content(
            self.namespace, _request_timeout=120
        )
        items = json.loads(await listed.text())["items"]
        return {
            "all": len(items),
            "bound": sum("nodeName" in pod["spec"] for pod in items),
            "running": sum(pod["status"].get("phase") == "Running" for pod in items),
        }

    async def pods_are(self, state: str, count: int, within: float) -> None:
        """So many pods exist, and all are `bound` (they have a node) or `running`."""
        async with asyncio.timeout(within):
            found: dict[str, int] = {}
            while (found.get("all"), found.get(state)) != (count, count):
                await asyncio.sleep(2)
                found = await self.pods()


@contextlib.contextmanager
def fake_nodes(kwok: Path, kubeconfig: Path, log: Path):
    """Kwok plays the kubelets of every node that carries its annotation.

    Its stages lie beside the program, as `make cluster` builds it.
    """
    kwok = kwok.resolve()
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                kwok,
                "--kubeconfig",
                kubeconfig,
                "--manage-all-nodes=false",
                f"--manage-nodes-with-annotation-selector={FAKE}=fake",
                *(f"--config={kwok.parent / 'stage' / stage}.yaml" for stage in STAGES),
                "--node-lease-duration-seconds=40",
            ],
            stdout=output,
            stderr=output,
            start_new_session=True,  # its own share of the processor, as on nodes
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(10)

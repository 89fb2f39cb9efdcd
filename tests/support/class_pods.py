"""Accelerator classes as the API server gives them, and pods that are made for them."""

from __future__ import annotations

from typing import Any

from kube_cluster import ApiServer, eventually
from modelfleet_operator.cluster.accelerators import KnownClass, read_class

PLACED = "2026-11-21T17:00:00Z"


def known(name: str = "h100", generation: int = 3, **spec: Any) -> KnownClass:
    """As the API server gives it."""
    body = {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "AcceleratorClass",
        "metadata": {
            "name": name,
            "generation": generation,
            "uid": "u",
            "resourceVersion": "7",
            "managedFields": [],
        },
        "spec": spec,
    }
    found = read_class(body)
    assert found is not None
    return found


def pod(**spec: Any) -> dict[str, Any]:
    sidecar, worker = {"name": "sidecar"}, {"name": "worker", "image": "worker:1"}
    return {
        "metadata": {"name": "smol-abc-0", "labels": {"a": "b"}},
        "spec": {"containers": [sidecar, worker], **spec},
    }


def unschedulable(why: str) -> dict[str, Any]:
    """A pod's status since long ago."""
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": why,
        "lastTransitionTime": PLACED,
    }
    return {"phase": "Pending", "conditions": [condition]}


def accelerator(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["labels"].get("modelfleet.dev/accelerator", ""))


async def the_pod(api: ApiServer, of: str) -> str:
    """The name of the only pod, once it is of this class."""
    found = await eventually(
        lambda: [name for name, pod in api.running().items() if accelerator(pod) == of]
    )
    assert len(api.running()) == 1
    return str(found[0])

"""What a worker's container asks of its node: what the user says, else the chart, else a guess.

Without requests a pod is the first that a node short of memory evicts, and the scheduler packs any
number of them onto one node.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..api.formats import show_quantity
from ..api.model_deployment import ModelDeployment
from ..decisions.sizing import worker_memory
from ..errors import StartError
from ..views import model_name, weight_bits
from .pod_problems import WORKER

CPU = "500m"  # so that no number of workers starves a node; they use all cores that are free
PACED = {"cpu": "10m", "memory": "128Mi"}  # a process that only takes time
_DEVICE = "MODELFLEET_DEVICE"

Layer = Mapping[str, Any]  # a container's `resources`


def read_resources(text: str, flag: str) -> Layer:
    """JSON as a container's `resources`, without claims; StartError names the flag."""
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(
        bound in ("limits", "requests") and isinstance(amounts, dict)
        for bound, amounts in found.items()
    ):
        raise StartError(
            f'{flag}: expected JSON like {{"requests": {{"cpu": "2", "memory": "8Gi"}}}}'
        )
    # YAML makes numbers of some quantities: cpu: 2.
    return {
        bound: {name: str(amount) for name, amount in amounts.items()}
        for bound, amounts in found.items()
    }


def guessed(manifest: ModelDeployment, device: str, env: Iterable[Mapping[str, Any]]) -> Layer:
    """Requests by the model's name and the engine's limits; `env` is the worker container's.

    No limits: one of memory would kill a worker whose size was guessed too low.
    """
    if is_paced(device, env):
        return {"requests": PACED}
    memory = worker_memory(
        model_name(manifest.spec.model.source),
        bits=weight_bits(manifest),
        kv_cache=manifest.spec.engine.kv_cache_memory,
    )
    return {"requests": {"cpu": CPU, "memory": show_quantity(memory)}}


def is_paced(device: str, env: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the worker only takes time; `env` is its container's."""
    chosen = {str(v.get("name")): v.get("value") for v in env}.get(_DEVICE, device)
    return "paced" in (device, chosen)


def layered(*layers: Layer) -> dict[str, Any]:
    """Of each resource all that the first layer says that names it, as a request or as a limit.

    A request of one layer never meets a limit of another, which it might exceed.

    {limits: {memory: 8Gi}} over {requests: {cpu: 1, memory: 20Gi}} ->
    {limits: {memory: 8Gi}, requests: {cpu: 1}}
    """
    result: dict[str, Any] = {}
    settled: set[str] = set()
    for layer in layers:
        amounts = {bound: layer.get(bound) or {} for bound in ("limits", "requests")}
        for bound, named in amounts.items():
            fresh = {name: amount for name, amount in named.items() if name not in settled}
            if fresh:
                result[bound] = {**result.get(bound, {}), **fresh}
        settled.update(*amounts.values())
        for field in layer.keys() - amounts.keys():  # claims of devices
            result.setdefault(field, layer[field])
    return result


def with_requests(spec: dict[str, Any], *defaults: Layer) -> dict[str, Any]:
    """The pod's spec, whose worker asks for what neither it nor the whole pod says."""
    of_the_pod = layered(spec.get("resources") or {})
    containers = [
        {**container, "resources": _below(container.get("resources") or {}, of_the_pod, defaults)}
        if container["name"] == WORKER
        else container
        for container in spec["containers"]
    ]
    return {**spec, "containers": containers}


def _below(given: Layer, of_the_pod: Layer, defaults: tuple[Layer, ...]) -> dict[str, Any]:
    taken = {name for bound in ("limits", "requests") for name in of_the_pod.get(bound, {})}
    free = [
        {
            bound: {name: amount for name, amount in named.items() if name not in taken}
            for bound, named in layer.items()
        }
        for layer in defaults
    ]
    return layered(given, *free)

"""What a model's source becomes in a pod: volumes, mounts, environment, and what the worker reads.

Remote models (hf://, s3://, oci://) are fetched by the worker itself, not by an init container: so
its Stats tell the download's progress, one cache serves all pods of a node, and `modelfleet up`
runs the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from ..api.model_spec import Model
from .host_folders import CACHE, CACHE_VOLUME

MODEL = "/models"  # where a claim or an image is mounted
PULL_SECRETS = "/var/run/modelfleet/pull-secrets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """Parts of the pod and of its worker container."""

    source: str  # for the worker's --source
    volumes: tuple[dict[str, Any], ...]
    mounts: tuple[dict[str, Any], ...]
    environment: tuple[dict[str, Any], ...]


def host_folder(source: str) -> str:
    """The node's folder that a file:// source names; empty for others."""
    return unquote(source.removeprefix("file://")) if source.startswith("file://") else ""


def keeps_files(model: Model, *, node_cache: str, image_volumes: bool) -> bool:
    """Whether what a worker fetched stays on its node for the next one."""
    scheme = model.source.partition("://")[0]
    fetched = scheme in ("hf", "s3") or (scheme == "oci" and not image_volumes)
    return bool(node_cache) and fetched


def storage(
    model: Model,
    *,
    node_cache: str = "",
    hub_endpoint: str = "",
    offline: bool = False,
    pull_secrets: Sequence[str] = (),
    image_volumes: bool = False,
) -> Storage:
    """`pull_secrets` are those of the pod: they open the registry of an oci:// source, too.

    `node_cache` is a folder of the node that its workers share; without it each pod has its own
    cache. `image_volumes` leaves oci:// sources to the node's container runtime (KEP-4639).
    """
    source, volume = _mounted(model.source, image_volumes)
    environment = [
        _variable("MODELFLEET_CACHE", CACHE),
        _variable("HF_HOME", f"{CACHE}/huggingface"),
        _variable("HOME", CACHE),  # the root file system is read-only
    ]
    volumes = [{"name": CACHE_VOLUME, **_cache(node_cache)}]
    mounts: list[dict[str, Any]] = [{"name": CACHE_VOLUME, "mountPath": CACHE}]
    if volume is not None:
        volumes.append({"name": "model", **volume})
        folder = host_folder(model.source) or MODEL
        mounts.append({"name": "model", "mountPath": folder, "readOnly": True})
    if source.startswith("hf://"):
        environment += hub_variables(model, hub_endpoint, offline)
    if source.startswith("oci://") and pull_secrets:
        volumes.append({"name": "pull-secrets", "projected": {"sources": _secrets(pull_secrets)}})
        mounts.append({"name": "pull-secrets", "mountPath": PULL_SECRETS, "readOnly": True})
        environment.append(_variable("MODELFLEET_PULL_SECRETS", PULL_SECRETS))
    return Storage(
        source=source,
        volumes=tuple(volumes),
        mounts=tuple(mounts),
        environment=tuple(environment),
    )


def _mounted(source: str, image_volumes: bool) -> tuple[str, dict[str, Any] | None]:
    """What the worker is told, and the volume that holds the model; none: the worker fetches it."""
    scheme, _, rest = source.partition("://")
    if scheme == "file":
        return source, {"hostPath": {"path": host_folder(source), "type": "Directory"}}
    if scheme == "pvc":
        claim, _, path = rest.partition("/")
        folder = f"{MODEL}/{quote(unquote(path).strip('/'))}".rstrip("/")
        # Read-only in the volume, too: a disk that one node writes can be read by many.
        return f"file://{folder}", {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
    if scheme == "oci" and image_volumes:
        return f"file://{MODEL}", {"image": {"reference": rest}}
    return source, None


def _cache(node_cache: str) -> dict[str, Any]:
    if not node_cache:
        return {"emptyDir": {}}
    return {"hostPath": {"path": node_cache, "type": "Directory"}}


def hub_variables(model: Model, endpoint: str, offline: bool) -> list[dict[str, Any]]:
    """What workers of hf:// sources get beside."""
    variables = []
    if endpoint:
        variables.append(_variable("HF_ENDPOINT", endpoint))
    if offline:
        variables.append(_variable("HF_HUB_OFFLINE", "1"))
    if model.token_secret_ref is not None:
        reference = {"name": model.token_secret_ref.name, "key": model.token_secret_ref.key}
        variables.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
    return variables


def _secrets(names: Sequence[str]) -> list[dict[str, Any]]:
    """Optional, as pull secrets are: one that is missing keeps no pod from starting."""
    return [
        {
            "secret": {
                "name": name,
                "items": [{"key": ".dockerconfigjson", "path": f"{name}.json"}],
                "optional": True,
            }
        }
        for name in names
    ]


def _variable(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "value": value}

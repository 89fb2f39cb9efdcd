"""Folders of the node: which ones pods may mount, and that they are read-only there."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .pod_problems import WORKER

CACHE = "/var/cache/modelfleet"  # where a worker has it
CACHE_VOLUME = "cache"  # Modelfleet's own; the one volume that may be the node cache
_WORKER = f"containers[{WORKER}]"
# The kubelet makes a folder or file of another type, as root, or it is a way to talk to the node.
_TYPES = frozenset({None, "", "Directory", "File"})


@dataclass(frozen=True, slots=True)
class HostFolders:
    """What the administrator allows."""

    allowed: tuple[str, ...] = ()
    node_cache: str = ""  # workers write to it, so nothing else mounts it; empty: there is none

    def allows(self, path: str) -> bool:
        """Whether it is one of the allowed folders, or under one."""
        return path.startswith("/") and any(_is_under(path, allowed) for allowed in self.allowed)

    def refusal(self, path: str) -> str:
        """Why a volume of a user may not be this folder; empty: it may."""
        if not self.allows(path):
            allowed = ", ".join(self.allowed) or "none"
            return (
                f"{path} is not under the node's folders that this operator may mount ({allowed}): "
                "use another one, or ask the administrator for --host-path"
            )
        cache = self.node_cache
        if cache and (_is_under(path, cache) or _is_under(cache, path)):
            return (
                f"{path} overlaps {cache}, the cache that the node's workers write to: use a "
                "folder apart from it"
            )
        return ""

    def problems(self, spec: Mapping[str, Any], *, is_ours: bool = False) -> Iterator[str]:
        """What is wrong with the host folders that a pod's spec mounts, one sentence each.

        `is_ours`: a whole pod of Modelfleet's, whose cache may be the node's.
        """
        volumes = {volume["name"]: volume["hostPath"] for volume in _host_volumes(spec)}
        cache = volumes.pop(CACHE_VOLUME, None) if is_ours else None
        if cache and cache.get("path") != self.node_cache:
            yield f"volumes[{CACHE_VOLUME}].hostPath: {cache.get('path')} is no cache any more"
        for name, folder in volumes.items():
            where = f"volumes[{name}].hostPath"
            if refusal := self.refusal(str(folder.get("path"))):
                yield f"{where}: {refusal}"
            if folder.get("type") not in _TYPES:
                yield f"{where}.type: expected Directory or File, found {folder['type']!r}"
        for container, mount in _mounts(spec):
            is_caches_own = is_ours and container == _WORKER and mount.get("mountPath") == CACHE
            if self.node_cache and mount.get("name") == CACHE_VOLUME and not is_caches_own:
                where = f"{container}.volumeMounts[{CACHE_VOLUME}]"
                yield f"{where}: only the worker has the node's cache"
            if mount.get("name") in volumes and (field := _writable_by(mount)):
                yield (
                    f"{container}.volumeMounts[{mount['name']}].{field}: folders of the node are "
                    "read-only in pods: remove it"
                )


def read_only(spec: dict[str, Any]) -> dict[str, Any]:
    """The pod's spec whose host folders, but for the cache, no container can write to.

    Recursively where the node's container runtime can: a read-only mount leaves file systems that
    are mounted below it as they are.
    """
    names = {volume["name"] for volume in _host_volumes(spec)} - {CACHE_VOLUME}
    if not names:
        return spec
    fields = {field: spec[field] for field in ("initContainers", "containers") if field in spec}
    return {
        **spec,
        **{field: [_reading(c, names) for c in containers] for field, containers in fields.items()},
    }


def _reading(container: dict[str, Any], names: set[str]) -> dict[str, Any]:
    if "volumeMounts" not in container:
        return container
    least = {"readOnly": True, "recursiveReadOnly": "IfPossible"}
    mounts = [
        {**least, **mount, "readOnly": True} if mount.get("name") in names else mount
        for mount in container["volumeMounts"]
    ]
    return {**container, "volumeMounts": mounts}


def _writable_by(mount: Mapping[str, Any]) -> str:
    """The field by which a mount asks to be more than read-only; empty: none."""
    asked = {
        "readOnly": mount.get("readOnly") is False,
        "recursiveReadOnly": mount.get("recursiveReadOnly") == "Disabled",
        "mountPropagation": mount.get("mountPropagation") not in (None, "None"),
    }
    return next((field for field, is_asked in asked.items() if is_asked), "")


def _host_volumes(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from (volume for volume in spec.get("volumes") or () if volume.get("hostPath"))


def _mounts(spec: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for field in ("initContainers", "containers"):
        for container in spec.get(field) or ():
            for mount in container.get("volumeMounts") or ():
                yield f"{field}[{container.get('name')}]", mount


def _is_under(path: str, folder: str) -> bool:
    path, folder = _normal(path), _normal(folder)
    return posixpath.commonpath([path, folder]) == folder


def _normal(path: str) -> str:
    """With one slash at the beginning, where POSIX leaves two as they are."""
    return "/" + posixpath.normpath(path).lstrip("/")

"""What spec.podTemplate means where there are no pods: the worker's plain environment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..api.model_deployment import ModelDeployment
from ..errors import ManifestError

WORKER = "worker"  # the container that is laid under Modelfleet's own


def environment(manifest: ModelDeployment) -> dict[str, str]:
    """Variables of the worker that have a plain value; ManifestError for another shape."""
    where = f"{manifest.full_name}: spec.podTemplate.spec.containers"
    containers = _objects(manifest.spec.pod_template.spec.get("containers"), where)
    worker: dict[str, Any] = next((c for c in containers if c.get("name") == WORKER), {})
    where += f"[{WORKER}].env"
    variables = [v for v in _objects(worker.get("env"), where) if "value" in v]
    for variable in variables:
        name, value = variable.get("name"), variable["value"]
        if not isinstance(name, str) or not name or "=" in name or not isinstance(value, str):
            raise ManifestError(f"{where}: expected a name and a string, found {variable}")
    return {variable["name"]: variable["value"] for variable in variables}


def _objects(value: Any, where: str) -> list[dict[str, Any]]:
    entries = value or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ManifestError(f"{where}: expected a list of objects")
    return entries


def ignored(manifest: ModelDeployment) -> list[str]:
    """Fields of a template that `environment` took which mean nothing on one machine."""
    return sorted(_ignored(manifest))


def _ignored(manifest: ModelDeployment) -> Iterator[str]:
    template = manifest.spec.pod_template
    for field in ("labels", "annotations"):
        if getattr(template.metadata, field):
            yield f"metadata.{field}"
    yield from (f"spec.{name}" for name in template.spec if name != "containers")
    for container in template.spec.get("containers") or ():
        if container.get("name") != WORKER:
            yield f"spec.containers[{container.get('name')}]"
            continue
        here = f"spec.containers[{WORKER}]"
        yield from (f"{here}.{name}" for name in container if name not in ("name", "env"))
        if any("value" not in variable for variable in container.get("env") or ()):
            yield f"{here}.env without a value"

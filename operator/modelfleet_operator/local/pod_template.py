"""What spec.podTemplate means where there are no pods: the worker's plain environment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import ManifestError
from ..spec import ModelDeployment

WORKER = "worker"  # the container that is laid under Modelfleet's own


def environment(manifest: ModelDeployment) -> dict[str, str]:
    """Variables of the worker that have a plain value; ManifestError for another shape."""
    where = f"{manifest.full_name}: spec.podTemplate.spec.containers"
    container = _worker(manifest.spec.pod_template.spec)
    try:
        plain = {v["name"]: v["value"] for v in container.get("env") or () if "value" in v}
    except (KeyError, TypeError) as error:
        raise ManifestError(
            f"{where}[{WORKER}].env: expected a list of names and values"
        ) from error
    for name, value in plain.items():
        if not isinstance(value, str) or not isinstance(name, str) or "=" in name or not name:
            raise ManifestError(f"{where}[{WORKER}].env[{name}]: expected a name, and a string")
    return plain


def ignored(manifest: ModelDeployment) -> list[str]:
    """Fields of the template that mean nothing on one machine."""
    return sorted(_ignored(manifest))


def _ignored(manifest: ModelDeployment) -> Iterator[str]:
    template = manifest.spec.pod_template
    for field in ("labels", "annotations"):
        if getattr(template.metadata, field):
            yield f"metadata.{field}"
    yield from (f"spec.{name}" for name in template.spec if name != "containers")
    worker = _worker(template.spec)
    yield from (f"spec.containers[{WORKER}].{n}" for n in worker if n not in ("name", "env"))
    if any("value" not in variable for variable in worker.get("env") or ()):
        yield f"spec.containers[{WORKER}].env without a value"
    if any(c is not worker for c in template.spec.get("containers") or ()):
        yield "spec.containers beside the worker"


def _worker(spec: dict[str, Any]) -> dict[str, Any]:
    containers = spec.get("containers") or []
    if not isinstance(containers, list) or not all(isinstance(c, dict) for c in containers):
        raise ManifestError("spec.podTemplate.spec.containers: expected a list of objects")
    return next((c for c in containers if c.get("name") == WORKER), {})

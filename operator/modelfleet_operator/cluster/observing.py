"""What pods and ModelDeployments, as the API server shows them, mean to the decisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..decisions.autoscale import ScalingPolicy
from ..decisions.observed import Deployment, Worker
from ..decisions.rendering import parse_time
from .pods import ORDINAL, PORT, REVISION, UNROUTED_AT

Object = Mapping[str, Any]

# Reasons for which a container waits although nothing is wrong.
_PATIENT = frozenset({"ContainerCreating", "PodInitializing"})


def observed_worker(pod: Object) -> Worker | None:
    """One of our pods; None if its labels are not as we write them."""
    metadata, status = pod["metadata"], pod.get("status", {})
    labels = metadata.get("labels", {})
    if not labels.get(ORDINAL, "").isdecimal():
        return None
    stopping = "deletionTimestamp" in metadata
    unrouted_at = labels.get(UNROUTED_AT)
    return Worker(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        revision=labels.get(REVISION, ""),
        ordinal=int(labels[ORDINAL]),
        created=parse_time(metadata["creationTimestamp"]),
        address=_address(status.get("podIP", "")),
        unrouted_at=float(unrouted_at) if unrouted_at else None,
        stopping=stopping,
        failure=None if stopping else _failure(status),
        trouble=next(_troubles(status), ""),
    )


def _address(ip: str) -> str:
    if not ip:
        return ""
    return f"[{ip}]:{PORT}" if ":" in ip else f"{ip}:{PORT}"


def _failure(status: Object) -> str | None:
    """Why a pod ended though nobody asked for it."""
    if status.get("phase") not in {"Failed", "Succeeded"}:
        return None
    for container in status.get("containerStatuses", ()):
        ended = container.get("state", {}).get("terminated")
        if ended:
            last_line = ended.get("message", "").strip().rpartition("\n")[2]
            how = f"{ended.get('reason', 'Ended')}, exit code {ended.get('exitCode')}"
            return f"{how}: {last_line}" if last_line else how
    reason = status.get("reason", status["phase"])  # Evicted, NodeLost, Preempting, ...
    message = status.get("message", "")
    return f"{reason}: {message}" if message else reason


def _troubles(status: Object) -> Iterator[str]:
    """Why a pod does not start."""
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield f"{condition.get('reason', 'Unscheduled')}: {condition.get('message', '')}"
    for container in status.get("containerStatuses", ()):
        waiting = container.get("state", {}).get("waiting", {})
        if waiting.get("reason", "ContainerCreating") not in _PATIENT:
            yield f"{waiting['reason']}: {waiting.get('message', '')}"


def owned_by(pod: Object, uid: str) -> bool:
    """Whether the object with this uid is the pod's controller."""
    references = pod["metadata"].get("ownerReferences", ())
    return any(r.get("controller") and r["uid"] == uid for r in references)


def invalid_deployment(body: Object, error: str, workers: int) -> Deployment:
    """A ModelDeployment that its user must correct: what runs stays as it is meanwhile."""
    metadata = body["metadata"]
    return Deployment(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        created=parse_time(metadata["creationTimestamp"]),
        revision=body.get("status", {}).get("revision", ""),
        scaling=ScalingPolicy(mode="External", replicas=workers),
        error=error,
    )

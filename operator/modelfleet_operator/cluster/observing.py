"""What pods and ModelDeployments, as the API server shows them, mean to the decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..decisions.autoscale import ScalingPolicy
from ..decisions.observed import Deployment, Worker
from ..decisions.reasons import Reason
from ..decisions.rendering import parse_time
from .accelerators import ACCELERATOR, ACCELERATOR_GENERATION
from .pod_problems import failure_of, placed_at, startup_problem_of
from .pods import ORDINAL, PORT, REVISION, UNROUTED_AT

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class KnownPod:
    """A pod as the index holds it: what decisions see of it, and nothing of the rest (20 KiB)."""

    uid: str
    owner_uid: str  # of its controller; empty: it has none
    worker: Worker | None  # None: its labels are not as we write them


def read_pod(pod: Object) -> KnownPod:
    """Reads it for the index."""
    references = pod["metadata"].get("ownerReferences", ())
    return KnownPod(
        uid=pod["metadata"]["uid"],
        owner_uid=next((r["uid"] for r in references if r.get("controller")), ""),
        worker=observed_worker(pod),
    )


def observed_worker(pod: Object) -> Worker | None:
    """One of our pods; None if its labels are not as we write them."""
    metadata, status = pod["metadata"], pod.get("status", {})
    labels = metadata.get("labels", {})
    if not labels.get(ORDINAL, "").isdecimal():
        return None
    stopping = "deletionTimestamp" in metadata
    draining_since = labels.get(UNROUTED_AT)
    failure = None if stopping else failure_of(pod)
    return Worker(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        revision=labels.get(REVISION, ""),
        ordinal=int(labels[ORDINAL]),
        created=parse_time(metadata["creationTimestamp"]),
        address=_address(status.get("podIP", "")),
        draining_since=float(draining_since) if draining_since else None,
        stopping=stopping,
        gone_by=parse_time(metadata["deletionTimestamp"]) if stopping else None,
        failure=failure[0] if failure else None,
        failure_reason=failure[1] if failure else Reason.WORKER_FAILED,
        problem=None if failure else startup_problem_of(pod),
        accelerator=labels.get(ACCELERATOR, ""),
        accelerator_generation=_generation(metadata.get("annotations", {})),
        placed_at=placed_at(pod),
    )


def _generation(annotations: Object) -> int:
    text = str(annotations.get(ACCELERATOR_GENERATION, ""))
    return int(text) if text.isdecimal() else 0


def _address(ip: str) -> str:
    if not ip:
        return ""
    return f"[{ip}]:{PORT}" if ":" in ip else f"{ip}:{PORT}"


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

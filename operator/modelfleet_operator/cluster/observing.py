"""What pods and ModelDeployments, as the API server shows them, mean to the decisions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from modelfleet_process.addresses import join_address

from ..api.model_deployment import KIND
from ..decisions.autoscale import ScalingPolicy
from ..decisions.interruption import notice_of
from ..decisions.observed import Deployment, Worker
from ..decisions.reasons import Reason
from ..decisions.rendering import parse_time
from ..decisions.signs import EMPTY
from .accelerators import ACCELERATOR, ACCELERATOR_GENERATION
from .capacity import CAPACITY
from .pod_problems import WORKER, failure_of, placed_at, started_at, startup_problem_of
from .pod_tls import PORT as TLS_PORT
from .pod_tls import speaks_tls, tls_name
from .pods import (
    CLAIMED_AT,
    DEPLOYMENT,
    DO_NOT_DISRUPT,
    ORDINAL,
    POOL,
    PORT,
    REVISION,
    UNROUTED_AT,
)

Object = Mapping[str, Any]


def deployment_of(found: Object) -> str:
    """Name of its ModelDeployment: its owner's, since labels can be changed. Empty: it has none."""
    name: str = found["metadata"].get("labels", {}).get(DEPLOYMENT, "")
    return owner_name(found["metadata"]) or name


def observed_worker(pod: Object) -> Worker | None:
    """One of our pods; None if its labels are not as we write them, and it is none of ours."""
    metadata, status = pod["metadata"], pod.get("status", {})
    labels = metadata.get("labels", {})
    identity = by_name(metadata) or _by_labels(labels)
    if identity is None:
        return None
    revision, ordinal = identity
    stopping = "deletionTimestamp" in metadata
    failure = None if stopping else failure_of(pod)
    claimed_at = number(labels.get(CLAIMED_AT)) if labels.get(POOL) else None
    has_tls = speaks_tls(pod.get("spec", {}), WORKER)
    return Worker(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        revision=revision,
        ordinal=ordinal,
        created=claimed_at or parse_time(metadata["creationTimestamp"]),
        address=pod_address(status.get("podIP", "")),
        tls_name=tls_name(metadata["namespace"], metadata["uid"]) if has_tls else "",
        tls_address=pod_address(status.get("podIP", ""), TLS_PORT) if has_tls else "",
        draining_since=number(labels.get(UNROUTED_AT)),
        stopping=stopping,
        gone_by=parse_time(metadata["deletionTimestamp"]) if stopping else None,
        failure=failure[0] if failure else None,
        failure_reason=failure[1] if failure else Reason.WORKER_FAILED,
        problem=None if failure else startup_problem_of(pod),
        accelerator=labels.get(ACCELERATOR, ""),
        accelerator_generation=number(metadata.get("annotations", {}).get(ACCELERATOR_GENERATION))
        or 0,
        placed_at=claimed_at or placed_at(pod),
        started_at=claimed_at or started_at(pod),
        node=pod.get("spec", {}).get("nodeName", ""),
        claimed_from=f"{metadata['namespace']}/{labels[POOL]}" if claimed_at else "",
        capacity=labels.get(CAPACITY, ""),
        notice=notice_of(EMPTY, pod, 0.0),
        protected=metadata.get("annotations", {}).get(DO_NOT_DISRUPT) == "true",
    )


def by_name(metadata: Object) -> tuple[str, int] | None:
    """Revision and ordinal of a pod that a ModelDeployment owns: its name is made of them."""
    owner, name = owner_name(metadata), metadata["name"]
    if not owner or not name.startswith(f"{owner}-"):
        return None
    found = re.fullmatch(r"([a-z0-9]+)-([0-9]{1,9})", name[len(owner) + 1 :])
    return (found[1], int(found[2])) if found else None


def _by_labels(labels: Object) -> tuple[str, int] | None:
    ordinal = number(labels.get(ORDINAL))
    return None if ordinal is None else (labels.get(REVISION, ""), ordinal)


def number(text: object) -> int | None:
    """What we write; None for what another hand wrote."""
    return int(text) if isinstance(text, str) and re.fullmatch("[0-9]{1,15}", text) else None


def owner_name(metadata: Object) -> str:
    """Of the ModelDeployment that owns it; empty: none does."""
    owner = controller_of(metadata)
    return str(owner["name"]) if owner.get("kind") == KIND else ""


def controller_of(metadata: Object) -> Object:
    """The owner that acts for it; empty: it has none."""
    references = metadata.get("ownerReferences", ())
    return next((reference for reference in references if reference.get("controller")), {})


def pod_address(ip: str, port: int = PORT) -> str:
    """Where the worker of a pod listens; empty: it has no address yet."""
    return join_address(ip, port) if ip else ""


def controller_uid(found: Object) -> str:
    """Of the object that owns it; empty: none does."""
    return str(controller_of(found["metadata"]).get("uid", ""))


def owned_by(pod: Object, uid: str) -> bool:
    """Whether the object with this uid is the pod's controller."""
    return bool(controller_of(pod["metadata"]).get("uid") == uid)


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

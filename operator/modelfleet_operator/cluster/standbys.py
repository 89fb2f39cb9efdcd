"""Pods that stand by, as the API server shows them: what they mean to their pools."""

from __future__ import annotations

import re

from ..api.warm_pool import KIND as POOL_KIND
from ..decisions.rendering import parse_time
from ..decisions.standby import Standby
from .accelerators import ACCELERATOR, ACCELERATOR_GENERATION
from .observing import Object, controller_of, number, pod_address
from .pod_problems import WORKER, failure_of, placed_at, startup_problem_of
from .pods import CLAIMED_AT, POOL


def pool_of(pod: Object) -> str:
    """Name of the WarmPool that it was started for; empty: for none."""
    metadata = pod["metadata"]
    owner = controller_of(metadata)
    if owner.get("kind") == POOL_KIND:
        return str(owner["name"])
    name: str = metadata.get("labels", {}).get(POOL, "")
    return name


def read_standby(pod: Object) -> Standby | None:
    """One of a pool's pods, claimed or not; None if its name is not as we write it."""
    metadata, status = pod["metadata"], pod.get("status", {})
    pool = pool_of(pod)
    if not pool or not metadata["name"].startswith(f"{pool}-"):
        return None
    found = re.fullmatch(r"([0-9a-f]{8})-s([0-9]{1,9})", metadata["name"][len(pool) + 1 :])
    if found is None:
        return None
    owner, labels = controller_of(metadata), metadata.get("labels", {})
    stopping = "deletionTimestamp" in metadata
    failure = None if stopping else failure_of(pod)
    is_ours = owner.get("kind") == POOL_KIND
    return Standby(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        pool=f"{metadata['namespace']}/{pool}",
        template=found[1],
        ordinal=int(found[2]),
        created=parse_time(metadata["creationTimestamp"]),
        address=pod_address(status.get("podIP", "")),
        version=metadata.get("resourceVersion", ""),
        is_up=any(c["name"] == WORKER and c.get("started") for c in _containers(status)),
        # Whoever took it from its pool has it, a person's hand, too.
        claimed_by="" if is_ours else f"{metadata['namespace']}/{owner.get('name', '')}",
        claimed_at=0.0 if is_ours else float(number(labels.get(CLAIMED_AT)) or 0),
        stopping=stopping,
        failure=failure[0] if failure else None,
        problem=None if failure else startup_problem_of(pod),
        accelerator=labels.get(ACCELERATOR, ""),
        accelerator_generation=number(metadata.get("annotations", {}).get(ACCELERATOR_GENERATION))
        or 0,
        placed_at=placed_at(pod),
        node=pod.get("spec", {}).get("nodeName", ""),
    )


def _containers(status: Object) -> list[Object]:
    found: list[Object] = status.get("containerStatuses") or []
    return found

"""A pod of ours as the index holds it: parsed once for each change, used often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..decisions.observed import Worker
from ..decisions.standby import Standby
from .accelerators import ACCELERATOR, ACCELERATOR_GENERATION
from .environment import plain_values
from .observing import (
    Object,
    by_name,
    controller_of,
    deployment_of,
    number,
    observed_worker,
    owner_name,
)
from .pods import DEPLOYMENT, ORDINAL, REVISION, UNROUTED_AT
from .standbys import pool_of, read_standby

_POOL = "pool "  # before a pool's key, where keys of deployments stand beside it


@dataclass(frozen=True, slots=True)
class KnownPod:
    """What decisions see of it, and nothing of the rest (20 KiB)."""

    uid: str
    owner_uid: str  # of its controller; empty: it has none
    worker: Worker | None  # None: its labels are not as we write them, and it is no deployment's
    broken: Mapping[str, str | None] = field(default_factory=dict)
    """Labels that were changed by hand, with what they should be; None: not there."""
    unreadable: str = ""  # a label or annotation whose right value is not known; empty: none
    env: tuple[tuple[str, str], ...] = ()  # names and values that no message may quote
    standby: Standby | None = None  # what it is to the pool that it was started for; None: to none


def read_pod(pod: Object) -> KnownPod:
    """Reads it for the index."""
    metadata = pod["metadata"]
    worker = observed_worker(pod) if deployment_of(pod) else None
    return KnownPod(
        uid=metadata["uid"],
        owner_uid=controller_of(metadata).get("uid", ""),
        worker=worker,
        broken=_broken(metadata, worker) if worker else {},
        unreadable=_unreadable(metadata) if worker else "",
        env=plain_values(pod.get("spec", {})),
        standby=read_standby(pod),
    )


def keys_of(pod: Object) -> list[str]:
    """Under which the index has it: its deployment's, its pool's, or both where one claimed it."""
    namespace = pod["metadata"]["namespace"]
    deployment, pool = deployment_of(pod), pool_of(pod)
    keys = [f"{namespace}/{deployment}"] if deployment else []
    return [*keys, pool_key(f"{namespace}/{pool}")] if pool else keys


def pool_key(key: str) -> str:
    """A pool's key where those of deployments stand beside it."""
    return _POOL + key


def pool_of_key(key: str) -> str:
    """`namespace/name` of the pool."""
    return key.removeprefix(_POOL)


def is_pool(key: str) -> bool:
    """Whether it is one, and no deployment's."""
    return key.startswith(_POOL)


def _broken(metadata: Object, worker: Worker) -> Mapping[str, str | None]:
    labels = metadata.get("labels", {})
    broken: dict[str, str | None] = {}
    if by_name(metadata) is not None:
        wanted = {
            DEPLOYMENT: owner_name(metadata),
            REVISION: worker.revision,
            ORDINAL: str(worker.ordinal),
        }
        broken |= {name: right for name, right in wanted.items() if labels.get(name) != right}
    if UNROUTED_AT in labels and worker.draining_since is None:
        broken[UNROUTED_AT] = None  # the plan drains it again if it should
    return broken


def _unreadable(metadata: Object) -> str:
    generation = metadata.get("annotations", {}).get(ACCELERATOR_GENERATION)
    has_class = ACCELERATOR in metadata.get("labels", {})
    if generation is None:
        return ACCELERATOR_GENERATION if has_class else ""
    if not has_class:
        return ACCELERATOR
    return "" if number(generation) is not None else ACCELERATOR_GENERATION

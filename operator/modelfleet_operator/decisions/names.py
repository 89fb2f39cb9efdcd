"""Names that follow from what they name: revisions, workers, and the owners of short names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .observed import Deployment


def revision_hash(values: Any) -> str:
    """Eight characters that change with anything in `values` (JSON types)."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def worker_name(deployment: str, revision: str, ordinal: int) -> str:
    """Deterministic: created twice, or by two leaders, it is still one worker."""
    return f"{deployment}-{revision}-{ordinal}"


def lowest_free(taken: Collection[int]) -> int:
    """The lowest ordinal that no existing worker of a revision has."""
    return next(ordinal for ordinal in range(len(taken) + 1) if ordinal not in taken)


def owners(deployments: Iterable[Deployment]) -> dict[str, str]:
    """Short name -> key of the deployment that answers to it; it may be one that is gone.

    A name belongs to the namespace that claimed it first, and never moves to another one because
    objects are created again, in whatever order: clients would send their prompts to strangers.

    - Of several that ask for a name, the one that has it keeps it; if none has, the oldest gets it.
    - Who asks for a name that another namespace has, *yields* it, for as long as it asks for it:
      that the other one is gone later gives it nothing. To take the name over it must ask anew.
    - Within a namespace the next oldest follows at once.

    a/m and b/m ask for m, a/m first -> a/m, and b/m yields it. a/m is deleted -> a/m still: m is
    answered by none. a/m is created again, younger than b/m -> a/m. b/m was created first, and asks
    for m later -> a/m. a/m gives m up, b/m drops m and asks for it again -> b/m.
    """
    result: dict[str, str] = {}
    yielded: dict[str, str] = {}
    oldest = sorted(deployments, key=lambda d: (d.created, d.key))
    for has_it in (True, False):
        for deployment in oldest:
            for name in deployment.served_names:
                if name in deployment.yielded:
                    yielded.setdefault(name, deployment.yielded[name])
                elif (name in deployment.claimed) is has_it:
                    result.setdefault(name, deployment.key)
    return yielded | result


def names_yielded(
    deployment: Deployment, owners: Mapping[str, str], before: Mapping[str, str]
) -> Mapping[str, str]:
    """The names that it yields now; `before` are those that it yielded until now."""
    asked = deployment.served_names
    return {
        name: owner
        for name in asked
        if namespace_of(owner := owners.get(name) or before.get(name, deployment.key))
        != deployment.namespace
    }


def with_yielded(
    deployment: Deployment, owners: Mapping[str, str], yielded: Mapping[str, str]
) -> Mapping[str, str]:
    """The owners, when a deployment remembers better than caches that it yielded its names."""
    stale = [name for name in yielded if owners.get(name) == deployment.key]
    asked = [name for name in stale if name in deployment.served_names]
    return {**owners, **{name: yielded[name] for name in asked}} if asked else owners


def namespace_of(key: str) -> str:
    """Of `namespace/name`."""
    return key.partition("/")[0]

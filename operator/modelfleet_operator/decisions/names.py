"""Names that follow from what they name: revisions, workers, and the owners of short names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
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
    """Short name -> key of the deployment that answers to it: the oldest that asks for it."""
    result: dict[str, str] = {}
    for deployment in sorted(deployments, key=lambda d: (d.created, d.key)):
        for name in deployment.served_names:
            result.setdefault(name, deployment.key)
    return result

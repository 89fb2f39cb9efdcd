"""What kopf hands to every handler of one operator."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from ..reconciler import Reconcilers
from .body import ClusterBody


@dataclass(slots=True)
class OperatorMemo:
    """kopf calls any such object a memo."""

    body: ClusterBody
    reconcilers: Reconcilers
    kubeconfig: Path | None = None
    first_event: asyncio.Event = field(default_factory=asyncio.Event)  # every index is complete
    # key -> (uid, generation, whether it is being deleted), as last seen in an event
    seen: dict[str, tuple[str, int | None, bool]] = field(default_factory=dict)

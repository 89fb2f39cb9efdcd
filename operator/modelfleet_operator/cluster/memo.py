"""What kopf hands to every handler of one operator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..pools import PoolKeeper
from ..reconciler import Reconcilers
from .body import ClusterBody
from .disruption import KnownBudget
from .evictions import KnownEviction
from .known_pod import KnownPod, is_pool
from .nodes import KnownNode


@dataclass(slots=True)
class OperatorMemo:
    """kopf calls any such object a memo."""

    body: ClusterBody
    reconcilers: Reconcilers
    keeper: PoolKeeper
    kubeconfig: Path | None = None
    listed_anew: Callable[[], None] = lambda: None  # told of each object of a list
    first_event: asyncio.Event = field(default_factory=asyncio.Event)  # every index is complete
    # key -> (uid, generation, whether it is being deleted), as last seen in an event
    seen: dict[str, tuple[str, int | None, bool]] = field(default_factory=dict)
    nodes: dict[str, KnownNode] = field(default_factory=dict)  # as last seen in an event
    budgets: dict[str, KnownBudget] = field(default_factory=dict)  # the same, by deployment
    evictions: dict[str, KnownEviction] = field(default_factory=dict)  # the same, by the pod's uid
    pods: dict[str, KnownPod] = field(default_factory=dict)  # the same, by uid

    def deletion_missed(self, uid: str, key: str) -> None:
        """Something was deleted and no watch has said so."""
        self.body.pools.deletion_missed(uid)
        self.pods.pop(uid, None)
        if is_pool(key):
            return
        self.body.deletion_missed(key, uid)
        self.seen.pop(key, None)
        self.reconcilers.wake(key)

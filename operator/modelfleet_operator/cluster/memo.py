"""What kopf hands to every handler of one operator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..pools import PoolKeeper
from ..reconciler import Reconcilers
from .body import ClusterBody
from .disruption import KnownBudget
from .nodes import KnownNode
from .pools import POOL_PREFIX


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
    keys_on: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Deployments with a worker on a node, by its name."""

    def deletion_missed(self, uid: str, key: str) -> None:
        """Something was deleted and no watch has said so."""
        self.body.pools.deletion_missed(uid)
        if key.startswith(POOL_PREFIX):
            return
        self.body.deletion_missed(key, uid)
        self.seen.pop(key, None)
        self.reconcilers.wake(key)

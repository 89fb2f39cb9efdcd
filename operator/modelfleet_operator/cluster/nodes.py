"""Nodes, where the operator may watch them: what they say of their workers' end and capacity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..decisions.capacity import capacity_of
from ..decisions.interruption import Notice, more_urgent, notice_of
from ..decisions.observed import Worker
from ..decisions.signs import EMPTY
from ..decisions.standby import Standby
from .capacity import ZONE


@dataclass(frozen=True, slots=True)
class KnownNode:
    """A Node as the index holds it: nothing of the rest (its images alone are 20 KiB)."""

    name: str
    capacity: str
    zone: str
    notice: Notice | None

    @property
    def says_nothing(self) -> bool:
        """Of what workers and standbys are told of their node."""
        return not self.capacity and not self.zone and self.notice is None


def read_node(body: Mapping[str, Any], now: float) -> KnownNode:
    """Reads it for the index. `now`: only to say which of several notices ends first."""
    metadata = body["metadata"]
    labels = metadata.get("labels") or {}
    return KnownNode(
        name=metadata["name"],
        capacity=capacity_of(labels),
        zone=labels.get(ZONE, ""),
        notice=notice_of(body, EMPTY, now),
    )


def on_node(worker: Worker, node: KnownNode | None, now: float) -> Worker:
    """The worker with what its node says; its own pod may say more."""
    if node is None or node.says_nothing:
        return worker
    return replace(
        worker,
        zone=node.zone,
        # What it was made for counts until its node says otherwise.
        capacity=node.capacity or worker.capacity,
        notice=more_urgent(worker.notice, node.notice, now),
    )


def of_node(standby: Standby, node: KnownNode | None) -> Standby:
    """The standby with what its node says."""
    if node is None or node.says_nothing:
        return standby
    leaves = f"{node.notice.kind} ({node.notice.source})" if node.notice else ""
    return replace(standby, capacity=node.capacity, leaves=leaves)

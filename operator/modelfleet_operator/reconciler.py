"""One task per deployment: reads, decides, writes. Woken by events, ticked slowly."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from .decisions.memory import Memory
from .decisions.observed import Observed
from .decisions.plan import Action
from .decisions.status import Status


class Body(Protocol):
    """What decisions act through: a cluster's API, or the processes of one machine.

    Methods raise `PassingError` for what may work when tried again; the reconciler asks again with
    back-off. Any other exception ends the deployment's task, and its owner logs and restarts it.
    """

    def keys(self) -> Collection[str]:
        """`namespace/name` of every deployment that exists (and is not being deleted)."""
        ...

    def observe(self, key: str) -> Observed | None:
        """From caches, without waiting. None: it is gone."""
        ...

    async def recall(self, key: str) -> tuple[Memory, Status | None]:
        """What `write_status` kept last; called once, before the first look at a deployment."""
        ...

    async def carry_out(self, action: Action, seen: Observed) -> None:
        """Idempotent: caches lag, so the same action may come again."""
        ...

    async def write_status(self, seen: Observed, status: Status, memory: Memory) -> None:
        """Called after every look, with the same values too: writes only what differs.

        Conditions and replica counts at once, other numbers at most every 10 s (see
        `decisions.rendering.is_due`), memory when its `dump` changed. Wakes nobody.
        """
        ...

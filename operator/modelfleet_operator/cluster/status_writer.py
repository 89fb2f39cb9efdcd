"""Status and memory in the object, written only when they differ, and Events about changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from ..api import model_deployment
from ..decisions import rendering
from ..decisions.announcements import announce
from ..decisions.memory import Memory
from ..decisions.observed import Deployment
from ..decisions.status import Status
from .api import ClusterApi
from .applied_status import AppliedStatuses, EventKind
from .known import Known

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Written:
    """The parts of a status."""

    status: Mapping[str, Any]
    memory: Mapping[str, Any]
    value: Status | None  # Events tell what the next one changes


class StatusWriter:
    """Of ModelDeployments."""

    def __init__(self, api: ClusterApi, clock: Callable[[], float], endpoint: str = "") -> None:
        """`endpoint` is the gateways' URL for clients; empty: not known."""
        self._endpoint = endpoint
        self._clock = clock
        self._applied: AppliedStatuses[_Written] = AppliedStatuses(
            api, clock, kind=model_deployment.KIND, plural=model_deployment.PLURAL
        )

    def forget(self, key: str) -> None:
        """The deployment is gone."""
        self._applied.forget(key)

    def recall(self, key: str, known: Known | None) -> tuple[Memory, Status | None]:
        """Memory and status from the object's own status."""
        stored = dict(known.body.get("status", {})) if known else {}
        memory = stored.pop("memory", {})
        try:
            recalled = Memory.load(memory), rendering.parse(stored)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # Another client changed it: a status that cannot be read is as good as none.
            log.warning("the status is unreadable and begins anew", model=key, error=repr(error))
            return Memory(), None
        if known and recalled[1] is not None:
            written = _Written(stored, memory, recalled[1])
            self._applied.recalled(key, known.uid, stored, written)
        return recalled

    async def write(
        self, deployment: Deployment, status: Status, memory: Memory, known: Known | None
    ) -> float | None:
        """Server-side apply, when something that is due differs from what was written last.

        Returns when (Unix seconds) to call it again for what was held back; None: nothing was.
        """
        rendered, dumped = rendering.render(status, self._endpoint), memory.dump()
        last = self._applied.last(deployment.key, deployment.uid)
        if (
            last is not None
            and dumped == last.value.memory
            and not rendering.is_due(last.value.status, last.at, rendered, self._clock())
        ):
            same = rendered == last.value.status
            return None if same else last.at + rendering.WRITE_INTERVAL
        whole = {**rendered, "memory": dumped}
        written = _Written(rendered, dumped, status)
        await self._applied.apply(deployment.key, deployment.uid, whole, written)
        for news in announce(last.value.value if last else None, status):
            if known is not None:
                await self.post_event(known, news.kind, news.reason, news.note)
        return None

    async def post_event(self, known: Known, kind: EventKind, reason: str, note: str) -> None:
        """An Event on the deployment; best effort."""
        await self._applied.post_event(known.body, kind, reason, note)

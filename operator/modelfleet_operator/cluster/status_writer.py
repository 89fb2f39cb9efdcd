"""Status and memory in the object, written only when they differ, and Events about changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from ..decisions import rendering
from ..decisions.announcements import announce
from ..decisions.memory import Memory
from ..decisions.observed import Deployment
from ..decisions.status import Status
from ..errors import PassingError, RejectedError
from .api import ClusterApi
from .known import Known

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Written:
    uid: str
    status: Mapping[str, Any]
    memory: Mapping[str, Any]
    at: float
    value: Status | None  # the status as a value: Events tell what the next one changes


class StatusWriter:
    """Keeps what was written last of each deployment, so that nothing is written twice."""

    def __init__(self, api: ClusterApi, clock: Callable[[], float], endpoint: str = "") -> None:
        """`endpoint` is the gateways' URL for clients; empty: not known."""
        self._api = api
        self._endpoint = endpoint
        self._clock = clock
        self._written: dict[str, _Written] = {}

    def forget(self, key: str) -> None:
        """The deployment is gone."""
        self._written.pop(key, None)

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
            self._written[key] = _Written(known.uid, stored, memory, at=0.0, value=recalled[1])
        return recalled

    async def write(
        self, deployment: Deployment, status: Status, memory: Memory, known: Known | None
    ) -> float | None:
        """Server-side apply, when something that is due differs from what was written last.

        Returns when (Unix seconds) to call it again for what was held back; None: nothing was.
        """
        now = self._clock()
        rendered, dumped = rendering.render(status, self._endpoint), memory.dump()
        last = self._written.get(deployment.key)
        if last is not None and last.uid != deployment.uid:
            last = None
        if (
            last is not None
            and dumped == last.memory
            and not rendering.is_due(last.status, last.at, rendered, now)
        ):
            return None if rendered == last.status else last.at + rendering.WRITE_INTERVAL
        try:
            await self._api.apply_status(
                deployment.namespace,
                deployment.name,
                deployment.uid,
                {**rendered, "memory": dumped},
            )
        except RejectedError as error:
            raise PassingError(str(error)) from error
        self._written[deployment.key] = _Written(deployment.uid, rendered, dumped, now, status)
        for news in announce(last.value if last else None, status):
            if known is not None:
                await self.post_event(known, news.kind, news.reason, news.note)
        return None

    async def post_event(
        self, known: Known, kind: Literal["Normal", "Warning"], reason: str, note: str
    ) -> None:
        """An Event on the deployment; best effort."""
        try:
            await self._api.post_event(known.body, kind=kind, reason=reason, note=note)
        except (PassingError, RejectedError) as error:
            # Events are for people and best effort everywhere; what they tell was done.
            log.warning("event not posted", reason=reason, error=str(error))

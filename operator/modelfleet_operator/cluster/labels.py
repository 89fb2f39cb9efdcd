"""Labels of ours on worker pods: put back when they were broken by hand, and told in an Event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Literal

import structlog

from ..errors import PassingError, RejectedError
from .api import ClusterApi
from .known import Known
from .known_pod import KnownPod

log = structlog.get_logger()


class LabelKeeper:
    """Remembers what it did to each pod, so that a watch that lags makes it do nothing twice."""

    def __init__(
        self,
        api: ClusterApi,
        post_event: Callable[[Known, Literal["Warning"], str, str], Awaitable[None]],
    ) -> None:
        self._api = api
        self._post_event = post_event
        self._done: dict[str, dict[str, tuple[Mapping[str, str | None], str]]] = {}

    def forget(self, key: str) -> None:
        """The deployment is gone."""
        self._done.pop(key, None)

    async def restore(self, key: str, known: Known, broken: Iterable[KnownPod]) -> None:
        """Once for each way in which a pod is broken: what breaks it again is not fought."""
        before = self._done.pop(key, {})
        for pod in broken:
            how = (pod.broken, pod.unreadable)
            if before.get(pod.uid) != how and not await self._restore(known, pod):
                continue
            self._done.setdefault(key, {})[pod.uid] = how

    async def _restore(self, known: Known, pod: KnownPod) -> bool:
        """Whether it was done: if not, the next reconcile tries again."""
        worker = pod.worker
        if worker is None or worker.stopping:
            return False
        try:
            if pod.broken and not await self._api.label_pod(worker, dict(pod.broken)):
                return False
        except (PassingError, RejectedError) as error:
            log.warning("labels are not put back", worker=worker.id, error=str(error))
            return False
        for name, value in pod.broken.items():
            right = "was removed" if value is None else f"is {value} again"
            note = f"{worker.name}: label {name} was changed by hand, and {right}"
            await self._post_event(known, "Warning", "LabelRestored", note)
        if pod.unreadable:
            note = f"{worker.name}: {pod.unreadable} was changed by hand, and counts as not there"
            await self._post_event(known, "Warning", "LabelUnreadable", note)
        return True

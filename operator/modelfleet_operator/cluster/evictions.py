"""Evictions of `lifecycle.k8s.io`: a worker's pod is asked to go, and the operator answers.

Kubernetes 1.37, alpha, off by default (KEP-4563). An EvictionRequest becomes an Eviction, and the
API's controller makes one responder after the other Active. Ours is named by the worker's pod: what
follows is what follows any notice without an end, and when the pod is gone the Eviction has
succeeded. A responder that sends no heartbeat for 20 minutes is passed over.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from ..decisions.interruption import Notice, more_urgent
from ..decisions.observed import Worker
from ..decisions.signs import NoticeKind
from ..errors import PassingError, RejectedError
from .api import ClusterApi
from .observing import Object

GROUP, VERSION, PLURAL = "lifecycle.k8s.io", "v1alpha1", "evictions"
RESPONDER: Final = "modelfleet.dev/operator"
PRIORITY: Final = 10_000  # what the API asks of a pod's own controller
BEAT: Final = 60.0  # seconds between heartbeats; the API asks for no more than one in 20 s
ASKED: Final = Notice(kind=NoticeKind.EVICTION, source=f"Eviction {GROUP}")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class KnownEviction:
    """An Eviction as the index holds it."""

    namespace: str
    name: str
    pod_uid: str
    is_active: bool  # it is our turn: neither another responder's, nor withdrawn


def read_eviction(body: Object) -> KnownEviction | None:
    """Reads it for the index; None: no pod of ours is its target."""
    pod = body.get("spec", {}).get("target", {}).get("pod") or {}
    responders = body.get("status", {}).get("targetResponders") or ()
    ours = next((r for r in responders if r.get("name") == RESPONDER), None)
    if ours is None or not pod.get("uid"):
        return None
    metadata = body["metadata"]
    is_active = ours.get("state") == "Active"
    return KnownEviction(metadata["namespace"], metadata["name"], pod["uid"], is_active)


def with_responder(pod: dict[str, Any]) -> dict[str, Any]:
    """The pod of a worker, whose Evictions the operator answers; others may answer, too."""
    others = pod["spec"].get("evictionResponders", [])
    ours = {"name": RESPONDER, "priority": PRIORITY}
    return {**pod, "spec": {**pod["spec"], "evictionResponders": [*others, ours]}}


class Evictions:
    """Those whose turn is ours, and when we said last that we are at it."""

    def __init__(self, api: ClusterApi, clock: Callable[[], float]) -> None:
        self._api = api
        self._clock = clock
        self._index: Mapping[str, Collection[KnownEviction]] | None = None
        self._beats: dict[str, float] = {}  # when the next heartbeat is due, by the pod's uid

    def attach(self, index: Mapping[str, Collection[KnownEviction]] | None) -> None:
        """The live index, by the pod's uid; None: the API server has no Evictions for us."""
        self._index = index

    @property
    def are_answered(self) -> bool:
        """Whether new pods name the operator as a responder."""
        return self._index is not None

    def seen(self, worker: Worker) -> Worker:
        """The worker with the notice that an Eviction of it is."""
        if self._active(worker.uid) is None:
            return worker
        return replace(worker, notice=more_urgent(worker.notice, ASKED, self._clock()))

    async def beat(self, workers: Iterable[Worker]) -> None:
        """Says of those that are asked to go that it is under way; best effort."""
        if not self._index:
            return
        now = self._clock()
        for worker in workers:
            eviction = self._active(worker.uid)
            if eviction is None or now < self._beats.get(worker.uid, 0.0):
                continue
            self._beats[worker.uid] = now + BEAT
            try:
                await self._api.apply_eviction_status(eviction.namespace, eviction.name, _beat(now))
            except (PassingError, RejectedError) as error:
                # The worker leaves all the same; without heartbeats the next responder evicts it.
                log.warning("an eviction is not answered", worker=worker.id, error=str(error))

    def gone(self, pod_uid: str) -> None:
        """The watch said that the Eviction was deleted, or that its pod was."""
        self._beats.pop(pod_uid, None)

    def _active(self, uid: str) -> KnownEviction | None:
        return next((e for e in (self._index or {}).get(uid, ()) if e.is_active), None)


def _beat(now: float) -> dict[str, Any]:
    time = datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    message = "another worker takes over, streams move there, then the pod is deleted"
    return {"responders": [{"name": RESPONDER, "heartbeatTime": time, "message": message}]}

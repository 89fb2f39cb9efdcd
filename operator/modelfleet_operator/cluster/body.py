"""The cluster as the reconciler's body: observes kopf's indices, acts through the API."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog

from ..decisions import rendering
from ..decisions.actions import Action, Create, Forget, Record, Remove, Reroute, Stop, Unroute
from ..decisions.announcements import announce
from ..decisions.memory import Memory
from ..decisions.names import owners
from ..decisions.observed import Deployment, Observed, Worker
from ..decisions.startup_problem import Refusal, refusal_reason
from ..decisions.status import Status
from ..errors import PassingError, RejectedError
from .accelerators import KnownClass, placed
from .api import ClusterApi
from .history import History
from .known import Known, read_deployment
from .observing import KnownPod, Object, read_pod
from .overlay import ObjectOverlay, WriteOverlay
from .pods import UNROUTED_AT, PodSettings, refused_host_path, worker_pod
from .revisions import KnownRevision

# Seconds that an idle worker gets to end. One whose Python is not up yet cannot hear SIGTERM: it is
# its container's first process, so the kernel drops a signal that nobody handles.
IDLE_GRACE = 10
REFUSAL_STANDS = 20.0  # seconds until a pod that the API server refused is tried again

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Written:
    uid: str
    status: Mapping[str, Any]
    memory: Mapping[str, Any]
    at: float
    told: Status | None  # the same as a value: Events tell what the next one changes


@dataclass(frozen=True, slots=True)
class _Refused:
    uid: str
    generation: int
    refusal: Refusal


class ClusterBody:
    """Implements `reconciler.Body`. Nothing in it is lost with it: the API server has all."""

    def __init__(self, api: ClusterApi, settings: PodSettings, clock: Callable[[], float]) -> None:
        self._api = api
        self._settings = settings
        self._clock = clock
        # kopf's indices, key -> values; their content follows the watches.
        self._deployments: Mapping[str, Collection[Known]] = {}
        self._pods: Mapping[str, Collection[KnownPod]] = {}
        self._classes: Mapping[str, Collection[KnownClass]] = {}
        self._writes = WriteOverlay()
        self._created: ObjectOverlay[KnownPod] = ObjectOverlay(
            lambda pod: pod.uid, lambda cached, made: True
        )
        self._history = History(api, settings, clock, self._warn)
        self._written: dict[str, _Written] = {}
        self._refused: dict[str, _Refused] = {}
        self._lost: set[str] = set()  # uids that the indices hold and the API server has not

    def attach(
        self,
        deployments: Mapping[str, Collection[Known]],
        pods: Mapping[str, Collection[KnownPod]],
        classes: Mapping[str, Collection[KnownClass]],
        revisions: Mapping[str, Collection[KnownRevision]],
    ) -> None:
        """The live indices, once kopf has made them."""
        self._deployments, self._pods, self._classes = deployments, pods, classes
        self._history.attach(revisions)

    def read(self, body: Object) -> Known:
        """Validates a ModelDeployment for the index, where it is not known already."""
        metadata = {name: v for name, v in body["metadata"].items() if name != "managedFields"}
        body = {**body, "metadata": metadata}
        for known in self._deployments.get(f"{metadata['namespace']}/{metadata['name']}", ()):
            if known.still_reads(body):
                return replace(known, body=body)
        return read_deployment(body, self._settings)

    def pod_gone(self, key: str, uid: str) -> None:
        """What we did to it does not matter any more."""
        self._writes.gone(uid)
        self._created.gone(key, uid)

    def revision_gone(self, key: str, uid: str) -> None:
        """It may be written again."""
        self._history.gone(key, uid)

    def cached(self) -> dict[str, str]:
        """All that the indices hold: uid -> key of the deployment."""
        found = {
            known.uid: key
            for key, there in self._deployments.items()
            for known in there
            if "/" in key  # else it is a short name
        }
        found |= {pod.uid: key for key, pods in self._pods.items() for pod in pods}
        found |= self._history.cached()
        return {uid: key for uid, key in found.items() if uid not in self._lost}

    def lost(self, key: str, uid: str) -> None:
        """It was deleted and no watch has said so: it does not count any more."""
        self._lost.add(uid)
        self.pod_gone(key, uid)
        self._history.lost(key, uid)

    def keys(self) -> Collection[str]:
        """`namespace/name` of every deployment that is not being deleted."""
        return [key for key in self._deployments if "/" in key and self._known(key) is not None]

    def observe(self, key: str) -> Observed | None:
        """From kopf's indices; None: it is gone or going."""
        known = self._known(key)
        if known is None:
            self._written.pop(key, None)
            self._refused.pop(key, None)
            self._created.forget(key)
            self._history.forget_all(key)
            return None
        uid = known.uid
        cached = [pod for pod in self._pods.get(key, ()) if pod.uid not in self._lost]
        pods = self._created.apply(key, cached, self._clock())
        workers = tuple(w for pod in pods if (w := self._worker(pod, uid)))
        return Observed(
            deployment=self._deployment(key, known, len(workers)),
            workers=workers,
            owners=self._owners(known),
            history=tuple(past.seen() for past in self._history.of(key, known)),
            accelerators={c.name: c.seen() for found in self._classes.values() for c in found},
        )

    async def recall(self, key: str) -> tuple[Memory, Status | None]:
        """From the object's own status."""
        known = self._known(key)
        stored = dict(known.body.get("status", {})) if known else {}
        memory = stored.pop("memory", {})
        try:
            recalled = Memory.load(memory), rendering.parse(stored)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # Somebody else wrote it: what decisions cannot read is as good as not there.
            log.warning("the status is unreadable and begins anew", model=key, error=repr(error))
            return Memory(), None
        if known and recalled[1] is not None:
            uid = known.uid
            self._written[key] = _Written(uid, stored, memory, at=0.0, told=recalled[1])
        return recalled

    async def carry_out(self, action: Action, seen: Observed) -> None:
        """PassingError for what may work later; what somebody must fix becomes the condition."""
        key = seen.deployment.key
        known = self._known(key)
        if known is None:
            return
        try:
            done = await self._act(action, known, key)
        except RejectedError as error:
            if not isinstance(action, Create):
                raise PassingError(str(error)) from error
            message = str(error)
            self._refused[key] = _Refused(
                seen.deployment.uid,
                seen.deployment.generation,
                Refusal(
                    reason=refusal_reason(message),
                    message=message,
                    retry_at=self._clock() + REFUSAL_STANDS,
                ),
            )
            raise PassingError(message) from error  # soon looked at again, and then a condition
        if done:
            log.info(done, model=key, **_subject(action), reason=action.reason)

    async def _act(self, action: Action, known: Known, key: str) -> str:
        """What was done, for the log; empty if there was nothing to do any more."""
        match action:
            case Create():
                return await self._create(action, known, key)
            case Record() | Forget():
                return await self._history.keep(action, key, known)
            case Unroute(worker=worker):
                now = float(int(self._clock()))
                await self._api.label_pod(worker, {UNROUTED_AT: str(int(now))})
                self._writes.routed(worker.uid, now)
                return "worker unrouted"
            case Reroute(worker=worker):
                await self._api.label_pod(worker, {UNROUTED_AT: None})
                self._writes.routed(worker.uid, None)
                return "worker routed to again"
            case Stop(worker=worker) | Remove(worker=worker):
                in_a_hurry = isinstance(action, Stop) and action.is_idle
                found = await self._api.delete_pod(worker, IDLE_GRACE if in_a_hurry else None)
                self._writes.stopped(worker.uid)
                if not found:
                    return ""
                died = isinstance(action, Remove)
                await self._tell(
                    known,
                    "Warning" if died else "Normal",
                    "WorkerEnded" if died else "WorkerStopped",
                    f"{'removed' if died else 'stopped'} {worker.name}: {action.reason}",
                )
                return "dead worker removed" if died else "worker stopped"

    async def _create(self, action: Create, known: Known, key: str) -> str:
        template = self._history.template(action.revision, key, known)
        if template is None:
            return ""  # it changed since: the next look decides anew
        pod = worker_pod(known.metadata, template, revision=action.revision, ordinal=action.ordinal)
        if folder := refused_host_path(template, self._settings):
            raise RejectedError(f"revision {action.revision} mounts {folder}, not allowed any more")
        if action.accelerator:
            class_ = next(iter(self._classes.get(action.accelerator, ())), None)
            if class_ is None:
                return ""
            pod = placed(pod, class_)
        made, is_new = await self._api.create_pod(pod, known.uid)
        self._refused.pop(key, None)
        self._created.put(key, made["metadata"]["uid"], read_pod(made), self._clock())
        if not is_new:
            return ""
        where = f" on {action.accelerator}" if action.accelerator else ""
        note = f"started {action.name}{where}: {action.reason}"
        await self._tell(known, "Normal", "WorkerStarted", note)
        return "worker started"

    async def write_status(self, seen: Observed, status: Status, memory: Memory) -> float | None:
        """Server-side apply, when something that is due differs from what was written last."""
        deployment, now = seen.deployment, self._clock()
        rendered, dumped = rendering.render(status), memory.dump()
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
        known = self._known(deployment.key)
        for news in announce(last.told if last else None, status):
            if known is not None:
                await self._tell(known, news.kind, news.reason, news.note)
        return None

    async def _warn(self, known: Known, reason: str, note: str) -> None:
        await self._tell(known, "Warning", reason, note)

    async def _tell(self, known: Known, kind: Any, reason: str, note: str) -> None:
        try:
            await self._api.post_event(known.body, kind=kind, reason=reason, note=note)
        except (PassingError, RejectedError) as error:
            # Events are for people and best effort everywhere; the write itself was done.
            log.warning("event not posted", reason=reason, error=str(error))

    def _known(self, key: str) -> Known | None:
        for known in self._deployments.get(key, ()):
            if not known.is_deleting and known.uid not in self._lost:
                return known
        return None

    def _deployment(self, key: str, known: Known, workers: int) -> Deployment:
        deployment = known.deployment(self._settings, workers)
        return replace(deployment, refusal=self._refusal(key, deployment))

    def _refusal(self, key: str, deployment: Deployment) -> Refusal | None:
        """Why the API server took no pod; it stands until it takes one, or the object changes."""
        refused = self._refused.get(key)
        if refused is None:
            return None
        if (refused.uid, refused.generation) != (deployment.uid, deployment.generation):
            del self._refused[key]
            return None
        return refused.refusal

    def _worker(self, pod: KnownPod, owner_uid: str) -> Worker | None:
        if pod.worker is None:
            return None
        if pod.owner_uid != owner_uid:
            # Of an earlier object of this name: the garbage collector ends it, its name is taken.
            return replace(pod.worker, stopping=True, failure=None)
        return self._writes.apply(pod.worker)

    def _owners(self, known: Known) -> Mapping[str, str]:
        """Who has the short names that it asks for: the index has their claimants."""
        rivals = [r for name in known.served_names for r in self._deployments.get(name, ())]
        there = (r for r in rivals if not r.is_deleting and r.uid not in self._lost)
        return owners(rival.deployment(self._settings, 0) for rival in there)


def _subject(action: Action) -> dict[str, str]:
    """For the log."""
    match action:
        case Record() | Forget():
            return {"revision": action.revision}
        case Create():
            return {"worker": action.name}
        case _:
            return {"worker": action.worker.name}

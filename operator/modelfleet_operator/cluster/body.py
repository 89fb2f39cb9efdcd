"""The cluster as the reconciler's body: observes kopf's indices, acts through the API."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog

from ..decisions import rendering
from ..decisions.announcements import announce
from ..decisions.memory import Memory
from ..decisions.names import owners
from ..decisions.observed import Deployment, Observed, Worker
from ..decisions.plan import Action, Create, Remove, Stop, Unroute
from ..decisions.reasons import Reason
from ..decisions.status import Status
from ..decisions.trouble import Refusal, refusal_reason
from ..errors import PassingError, RejectedError
from ..manifests import observed_manifest
from ..spec import ModelDeployment
from ..views import decision_view
from .accelerators import KnownClass, placed
from .api import ClusterApi
from .observing import Object, invalid_deployment, observed_worker, owned_by
from .pods import UNROUTED_AT, PodSettings, revision, worker_pod
from .storage import host_folder

REFUSAL_STANDS = 20.0  # seconds until a pod that the API server refused is tried again

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Known:
    """A ModelDeployment as the index holds it: read once for each change, looked at often."""

    body: Object
    manifest: ModelDeployment | None  # None: it is not valid
    error: str  # what its user must correct
    revision: str
    error_reason: Reason = Reason.INVALID_SPEC

    @property
    def is_deleting(self) -> bool:
        """Its deletion is certain: foreground deletion waits for its pods."""
        return "deletionTimestamp" in self.body["metadata"]


@dataclass(slots=True)
class _Done:
    """What we did to a pod and its cached copy may not show yet."""

    stopping: bool = False
    unrouted_at: float | None = None


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
        self._pods: Mapping[str, Collection[Object]] = {}
        self._classes: Mapping[str, Collection[KnownClass]] = {}
        self._owners: dict[str, str] | None = None
        self._done: dict[str, _Done] = {}  # by the pod's uid
        self._written: dict[str, _Written] = {}
        self._refused: dict[str, _Refused] = {}

    def attach(
        self,
        deployments: Mapping[str, Collection[Known]],
        pods: Mapping[str, Collection[Object]],
        classes: Mapping[str, Collection[KnownClass]],
    ) -> None:
        """The live indices, once kopf has made them."""
        self._deployments, self._pods, self._classes = deployments, pods, classes

    def read(self, body: Object) -> Known:
        """Validates a ModelDeployment for the index."""
        problems, manifest = observed_manifest(body)
        if manifest is None:
            return Known(body, None, "; ".join(problems), "")
        error, reason = "", Reason.INVALID_SPEC
        folder = host_folder(manifest.spec.model.source)
        if folder and not self._settings.allows_host_path(folder):
            allowed = ", ".join(self._settings.host_paths) or "none"
            reason = Reason.HOST_PATH_NOT_ALLOWED
            error = (
                f"spec.model.source: {folder} is not under the node's folders that this operator "
                f"may mount ({allowed}): use another source, or ask for --host-path"
            )
        return Known(body, manifest, error, revision(manifest, self._settings), reason)

    def names_changed(self) -> None:
        """A deployment came, went or changed: who owns which short name is asked again."""
        self._owners = None

    def pod_gone(self, uid: str) -> None:
        """What we did to it does not matter any more."""
        self._done.pop(uid, None)

    def keys(self) -> Collection[str]:
        """`namespace/name` of every deployment that is not being deleted."""
        return [key for key in self._deployments if self._known(key) is not None]

    def observe(self, key: str) -> Observed | None:
        """From kopf's indices; None: it is gone or going."""
        known = self._known(key)
        if known is None:
            self._written.pop(key, None)
            self._refused.pop(key, None)
            return None
        uid = known.body["metadata"]["uid"]
        workers = tuple(w for pod in self._pods.get(key, ()) if (w := self._worker(pod, uid)))
        return Observed(
            deployment=self._deployment(key, known, len(workers)),
            workers=workers,
            owners=self._name_owners(),
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
            uid = known.body["metadata"]["uid"]
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
            log.info(done, model=key, worker=_worker_of(action), reason=action.reason)

    async def _act(self, action: Action, known: Known, key: str) -> str:
        """What was done, for the log; empty if there was nothing to do any more."""
        match action:
            case Create(revision=wanted, ordinal=ordinal):
                if known.manifest is None or known.revision != wanted:
                    return ""  # it changed since: the next look decides anew
                pod = worker_pod(known.manifest, self._settings, revision=wanted, ordinal=ordinal)
                if action.accelerator:
                    class_ = next(iter(self._classes.get(action.accelerator, ())), None)
                    if class_ is None:
                        return ""
                    pod = placed(pod, class_)
                is_new = await self._api.create_pod(pod, known.body["metadata"]["uid"])
                self._refused.pop(key, None)
                if not is_new:
                    return ""
                where = f" on {action.accelerator}" if action.accelerator else ""
                note = f"started {action.name}{where}: {action.reason}"
                await self._tell(known, "Normal", "WorkerStarted", note)
                return "worker started"
            case Unroute(worker=worker):
                now = float(int(self._clock()))
                await self._api.label_pod(worker, {UNROUTED_AT: str(int(now))})
                self._done.setdefault(worker.uid, _Done()).unrouted_at = now
                return "worker unrouted"
            case Stop(worker=worker) | Remove(worker=worker):
                found = await self._api.delete_pod(worker)
                self._done.setdefault(worker.uid, _Done()).stopping = True
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

    async def write_status(self, seen: Observed, status: Status, memory: Memory) -> None:
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
            return
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

    async def _tell(self, known: Known, kind: Any, reason: str, note: str) -> None:
        try:
            await self._api.post_event(known.body, kind=kind, reason=reason, note=note)
        except (PassingError, RejectedError) as error:
            # Events are for people and best effort everywhere; the deed itself was done.
            log.warning("event not posted", reason=reason, error=str(error))

    def _known(self, key: str) -> Known | None:
        for known in self._deployments.get(key, ()):
            if not known.is_deleting:
                return known
        return None

    def _deployment(self, key: str, known: Known, workers: int) -> Deployment:
        if known.manifest is None:
            return invalid_deployment(known.body, known.error, workers)
        deployment = decision_view(known.manifest, revision=known.revision)
        return replace(
            deployment,
            error=known.error,
            error_reason=known.error_reason,
            refusal=self._refusal(key, deployment),
        )

    def _refusal(self, key: str, deployment: Deployment) -> Refusal | None:
        """Why the API server took no pod; it stands until it takes one, or the object changes."""
        refused = self._refused.get(key)
        if refused is None:
            return None
        if (refused.uid, refused.generation) != (deployment.uid, deployment.generation):
            del self._refused[key]
            return None
        return refused.refusal

    def _worker(self, pod: Object, owner_uid: str) -> Worker | None:
        worker = observed_worker(pod)
        if worker is None:
            return None
        if not owned_by(pod, owner_uid):
            # Of an earlier object of this name: the garbage collector ends it, its name is taken.
            return replace(worker, stopping=True, failure=None)
        done = self._done.get(worker.uid)
        if done is None:
            return worker
        return replace(
            worker,
            stopping=worker.stopping or done.stopping,
            failure=None if done.stopping else worker.failure,
            unrouted_at=done.unrouted_at if worker.unrouted_at is None else worker.unrouted_at,
        )

    def _name_owners(self) -> Mapping[str, str]:
        if self._owners is None:
            known = [(key, self._known(key)) for key in self._deployments]
            self._owners = owners(self._deployment(key, k, 0) for key, k in known if k)
        return self._owners


def _worker_of(action: Action) -> str:
    return action.name if isinstance(action, Create) else action.worker.name

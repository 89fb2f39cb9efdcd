"""The cluster as the reconciler's body: observes the cache, acts through the API."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import structlog

from ..api.model_deployment import KIND
from ..decisions.actions import (
    Action,
    AllowDisruptions,
    Claim,
    Create,
    Credit,
    Forget,
    Load,
    Protect,
    Record,
    Remove,
    Reroute,
    Stop,
    Unroute,
)
from ..decisions.memory import Memory
from ..decisions.observed import Observed, Worker
from ..decisions.placement import place_name
from ..decisions.pool_observed import PoolCounts
from ..decisions.status import Status
from ..errors import PassingError, RejectedError
from ..fleet.issuing import Issuing
from ..worker_client import load_model
from .accelerators import KnownClass, placed
from .api import IDLE_GRACE, ClusterApi
from .cache import ClusterCache
from .capacity import HOST, ZONE, rather_elsewhere, with_capacity
from .claimable import model_flags_of
from .disruption import DisruptionBudgets, KnownBudget
from .environment import plain_values, without_values
from .evictions import Evictions, KnownEviction, with_responder
from .history import History
from .known import Known
from .known_pod import KnownPod, is_pool, read_pod
from .labels import LabelKeeper
from .nodes import KnownNode
from .packing import arranged
from .pods import DEPLOYMENT, UNROUTED_AT, PodSettings, protection, template_refusal, worker_pod
from .pools import ClusterPools
from .refusals import Refusals
from .revisions import KnownRevision
from .status_writer import StatusWriter
from .worker_policies import WorkerPolicies

log = structlog.get_logger()


class ClusterBody:
    """Implements `reconciler.Body`. A successor needs nothing of it: the API server has all."""

    def __init__(
        self,
        api: ClusterApi,
        settings: PodSettings,
        clock: Callable[[], float],
        endpoint: str = "",
        may_act: Callable[[], None] = lambda: None,
        issuing: Issuing | None = None,
    ) -> None:
        """`endpoint` is the gateways' URL for clients; empty: not known.

        `may_act` raises when this operator leads no more; it is asked before workers are called.
        `issuing` has the authorities that workers trust, and this operator's certificate.
        """
        self._may_act = may_act
        self._issuing = issuing
        self._api = api
        self._settings = settings
        self._clock = clock
        self.cache = ClusterCache(settings, clock)
        self.pools = ClusterPools(api, settings, clock, self.cache, self._bundle)
        self._statuses = StatusWriter(api, clock, endpoint)
        self.history = History(api, settings, clock, self._statuses.post_event)
        self.budgets = DisruptionBudgets(api, clock, self._statuses.post_event)
        self.evictions = Evictions(api, clock)
        self._policies = WorkerPolicies(api, clock, settings.ingress_from)
        self._labels = LabelKeeper(api, self._statuses.post_event)
        self._refusals = Refusals(clock)

    def attach(
        self,
        deployments: Mapping[str, Collection[Known]],
        pods: Mapping[str, Collection[KnownPod]],
        classes: Mapping[str, Collection[KnownClass]],
        revisions: Mapping[str, Collection[KnownRevision]],
        nodes: Mapping[str, Collection[KnownNode]] | None = None,
        budgets: Mapping[str, Collection[KnownBudget]] | None = None,
        evictions: Mapping[str, Collection[KnownEviction]] | None = None,
    ) -> None:
        """The live indices, once kopf has made them; None: the operator may not watch those."""
        # An index that is empty yet is false.
        self.cache.attach(deployments, pods, classes, {} if nodes is None else nodes)
        self.history.attach(revisions)
        self.budgets.attach(budgets)
        self.evictions.attach(evictions)

    def uids(self) -> dict[str, str]:
        """All that the indices hold: uid -> key of the deployment."""
        return self.pools.cache.uids() | self.history.uids() | self.cache.uids()

    def deletion_missed(self, key: str, uid: str) -> None:
        """It was deleted and no watch has said so: it does not count any more."""
        self.cache.deletion_missed(key, uid)
        self.history.deletion_missed(key, uid)

    def pod_gone(self, keys: Collection[str], uid: str) -> None:
        """The watch said that a pod of these deployments and pools was deleted."""
        self.evictions.gone(uid)
        for key in keys:
            cache = self.pools.cache if is_pool(key) else self.cache
            cache.pod_gone(key, uid)

    def keys(self) -> Collection[str]:
        """`namespace/name` of every deployment that is not being deleted."""
        return self.cache.keys()

    def observe(self, key: str) -> Observed | None:
        """From the cache; None: it is gone, or being deleted."""
        known = self.cache.known(key)
        if known is None:
            self._statuses.forget(key)
            self._refusals.forget(key)
            self.cache.created.forget(key)
            self._labels.forget(key)
            self.history.forget_all(key)
            self.budgets.forget(key)
            self._policies.forget(key, DEPLOYMENT)
            self.pools.claims.forget_deployment(key)
            return None
        workers = self.cache.workers(key, known.uid)
        if self.evictions.are_answered:
            workers = tuple(map(self.evictions.seen, workers))
        deployment = known.deployment(len(workers))
        return Observed(
            deployment=replace(deployment, refusal=self._refusals.of(deployment)),
            workers=workers,
            owners=self.cache.owners(known),
            history=tuple(past.seen() for past in self.history.of(key, known)),
            accelerators=self.cache.accelerators(),
            pools=self.pools.claims.offers(known),
            keeps_budget=self.budgets.are_kept,
            min_available=self.budgets.min_available(key, known.uid),
        )

    async def recall(self, key: str) -> tuple[Memory, Status | None]:
        """From the object's own status."""
        return self._statuses.recall(key, self.cache.known(key))

    async def write_status(self, seen: Observed, status: Status, memory: Memory) -> float | None:
        """See StatusWriter.write."""
        key = seen.deployment.key
        known = self.cache.known(key)
        if known is not None:
            await self._labels.restore(key, known, self.cache.broken(key, known.uid))
            if seen.workers:
                await self._policies.keep(known.metadata, KIND, DEPLOYMENT)
        await self.evictions.beat(seen.workers)
        return await self._statuses.write(seen.deployment, status, memory, known)

    async def carry_out(self, action: Action, seen: Observed) -> None:
        """PassingError for what may work later; what a person must fix becomes the condition."""
        key = seen.deployment.key
        known = self.cache.known(key)
        if known is None:
            return
        try:
            done = await self._act(action, known, key)
        except RejectedError as error:
            if isinstance(action, Create | Claim):
                self._refusals.note(seen.deployment, str(error))
            # Reconciled again soon; a refusal is a condition then.
            raise PassingError(str(error)) from error
        if done:
            log.info(done, model=key, **_subject(action), reason=action.reason)

    async def _act(self, action: Action, known: Known, key: str) -> str:
        """What was done, for the log; empty if there was nothing to do any more."""
        match action:
            case Create():
                return await self._create(action, known, key)
            case Claim():
                return await self._claim(action, known, key)
            case Load(worker=worker):
                return await self._load(worker, known, key)
            case Credit(worker=worker, seconds=seconds):
                self.pools.ledger.add(worker.claimed_from, PoolCounts(seconds_saved=seconds))
                return "claim was worth it"
            case Record() | Forget():
                return await self.history.keep(action, key, known)
            case Unroute(worker=worker):
                now = float(int(self._clock()))
                await self._api.label_pod(worker, {UNROUTED_AT: str(int(now))})
                self.cache.writes.routed(worker.uid, now)
                return "worker drains"
            case Reroute(worker=worker):
                await self._api.label_pod(worker, {UNROUTED_AT: None})
                self.cache.writes.routed(worker.uid, None)
                return "worker serves again"
            case Stop() | Remove():
                return await self._delete(action, known)
            case Protect(worker=worker, is_protected=is_protected):
                await self._api.annotate_pod(worker, protection(is_on=is_protected))
                self.cache.writes.protected(worker.uid, is_protected=is_protected)
                return "worker protected" if is_protected else "worker may be disrupted"
            case AllowDisruptions(min_available=min_available):
                return await self.budgets.write(key, known, min_available)

    async def _create(self, action: Create, known: Known, key: str) -> str:
        template = self.history.template(action.revision, key, known)
        if template is None:
            return ""  # it changed since: the next reconcile decides anew
        pod = worker_pod(
            known.metadata,
            template,
            revision=action.revision,
            ordinal=action.ordinal,
            log_level=self._settings.log_level,
            tracing=self._settings.tracing,
            bundle=self._bundle(),
        )
        if refusal := template_refusal(template, self._settings):
            raise RejectedError(f"revision {action.revision} is not allowed any more: {refusal}")
        if action.accelerator:
            class_ = self.cache.accelerator_class(action.accelerator)
            if class_ is None:
                return ""
            pod = await self._of_class(pod, class_, known)
        if action.capacity:
            pod = with_capacity(pod, action.capacity)
        pod = rather_elsewhere(pod, ZONE, action.avoid_zones)
        pod = rather_elsewhere(pod, HOST, action.avoid_nodes)
        if self.evictions.are_answered:
            pod = with_responder(pod)
        await self._policies.keep(known.metadata, KIND, DEPLOYMENT)
        try:
            made, is_new = await self._api.create_pod(pod, known.uid)
        except RejectedError as error:
            raise RejectedError(without_values(str(error), plain_values(pod["spec"]))) from error
        self._refusals.forget(key)
        self.cache.created.put(key, made["metadata"]["uid"], read_pod(made), self._clock())
        if not is_new:
            return ""
        if action.missed:
            self.pools.ledger.add(action.missed, PoolCounts(misses=1))
        where = place_name(action.accelerator, action.capacity)
        where = f" on {where}" if where else ""
        note = f"started {action.name}{where}: {action.reason}"
        await self._statuses.post_event(known, "Normal", "WorkerStarted", note)
        return "worker started"

    def _bundle(self) -> bytes:
        """PEM of the authorities that a new worker trusts; empty: there is no TLS. PassingError."""
        bundle = self._issuing.bundle if self._issuing else b""
        if self._settings.tls is not None and not bundle:
            raise PassingError("there is no certificate authority yet, which a worker must know")
        return bundle

    async def _of_class(
        self, pod: dict[str, Any], class_: KnownClass, known: Known
    ) -> dict[str, Any]:
        is_cheapest = known.manifest and known.manifest.spec.placement.strategy == "Cheapest"
        pod = arranged(placed(pod, class_), class_, spread=bool(is_cheapest))
        return await self._api.device_claims.claimed(pod, class_, known.metadata, KIND)

    async def _claim(self, action: Claim, known: Known, key: str) -> str:
        """A pod is created where no standby is left, or the one that was got cannot be used."""
        if self.history.template(action.create.revision, key, known) is None:
            return ""  # it changed since: the next reconcile decides anew
        await self._policies.keep(known.metadata, KIND, DEPLOYMENT)
        taken = await self.pools.claims.claim(action, known)
        if taken is None:
            return await self._create(action.create, known, key)
        standby, pod = taken
        claimed = read_pod(pod)
        if claimed.worker is None:
            raise PassingError(f"pod {standby.id} was claimed and is unreadable")
        self.cache.created.put(key, claimed.uid, claimed, self._clock())
        log.info("standby claimed", model=key, worker=standby.name, reason=action.reason)
        done = await self._load(claimed.worker, known, key)  # first: a request waits for it
        note = f"claimed {standby.name} of pool {standby.pool}: {action.reason}"
        await self._statuses.post_event(known, "Normal", "WorkerClaimed", note)
        return done or await self._create(action.create, known, key)

    async def _load(self, worker: Worker, known: Known, key: str) -> str:
        """Empty: it does not take the call, so it is deleted; the plan knows of one less then."""
        template = self.history.template(worker.revision, key, known)
        if template is None:
            return ""  # the spec changed since: it is an old worker without a model, and goes
        self._may_act()
        try:
            address = worker.tls_address or worker.address
            credentials = self._issuing.credentials if self._issuing and worker.tls_name else None
            await load_model(address, model_flags_of(template), credentials, worker.tls_name)
        except (PassingError, RejectedError) as error:
            self.pools.claims.loaded(worker.claimed_from, str(error))
            await self._api.delete_pod(worker, IDLE_GRACE)
            self.cache.writes.stopped(worker.uid)
            note = f"deleted {worker.name}, which was claimed and cannot load: {error}"
            log.warning("claimed worker deleted", model=key, worker=worker.name, error=str(error))
            await self._statuses.post_event(known, "Warning", "ClaimFailed", note)
            return ""
        self.pools.claims.loaded(worker.claimed_from, "")
        return "claimed worker loads"

    async def _delete(self, action: Stop | Remove, known: Known) -> str:
        worker = action.worker
        is_idle = isinstance(action, Stop) and action.is_idle
        found = await self._api.delete_pod(worker, IDLE_GRACE if is_idle else None)
        self.cache.writes.stopped(worker.uid)
        if not found:
            return ""
        if isinstance(action, Remove):
            note = f"removed {worker.name}: {action.reason}"
            await self._statuses.post_event(known, "Warning", "WorkerEnded", note)
            return "exited worker removed"
        note = f"stopped {worker.name}: {action.reason}"
        await self._statuses.post_event(known, "Normal", "WorkerStopped", note)
        return "worker stopped"


def _subject(action: Action) -> dict[str, str]:
    """For the log."""
    match action:
        case Record() | Forget():
            return {"revision": action.revision}
        case Create():
            return {"worker": action.name}
        case Claim():
            return {"worker": action.create.name}
        case AllowDisruptions():
            return {"min_available": str(action.min_available)}
        case _:
            return {"worker": action.worker.name}

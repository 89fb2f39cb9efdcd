"""Warm pools on a cluster: pods that stand by, and the one write that makes one a deployment's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import structlog

from ..api import warm_pool
from ..decisions.actions import Claim
from ..decisions.claiming import is_claimable
from ..decisions.pool import AddStandby, PoolAction, RemoveStandby, standby_name
from ..decisions.pool_observed import PoolCounts, PoolObserved
from ..decisions.pool_status import PoolStatus, parse_pool, render_pool
from ..decisions.standby import PoolOffer, Standby
from ..errors import PassingError, RejectedError
from ..pools import PoolLedger
from ..views import fetch_flags
from .accelerators import placed
from .api import ClusterApi
from .cache import ClusterCache
from .known import Known
from .nodes import of_node
from .observing import Object
from .overlay import ObjectOverlay
from .packing import arranged
from .pods import PodSettings, pod_template
from .pool_pods import (
    KnownPool,
    MadePool,
    claim_patch,
    make_pool,
    read_standby,
    standby_pod,
    why_not_claimable,
)

GRACE = 10  # seconds that a standby gets to end: nothing runs on it
TRIES = 3  # of a claim whose pod was changed meanwhile, and not claimed
FAILED_LOADS = 2  # in a row, after which a pool's standbys are left alone for a while
PAUSE = 60.0  # seconds of that
REFUSAL_STANDS = 20.0  # seconds until a pod that the API server refused is tried again
REFUSALS_KEPT = 10_000
POOL_PREFIX = "pool "  # before a pool's key, where keys of deployments stand beside it

log = structlog.get_logger()


@dataclass(slots=True)
class _Loads:
    failed: int = 0  # in a row
    at: float = 0.0
    why: str = ""


class ClusterPools:
    """Implements `pools.PoolBody`. A successor needs nothing of it: the API server has all."""

    def __init__(
        self,
        api: ClusterApi,
        settings: PodSettings,
        clock: Callable[[], float],
        cache: ClusterCache,
    ) -> None:
        self._api = api
        self._settings = settings
        self._clock = clock
        self._cache = cache
        self.ledger = PoolLedger()
        # kopf's indices, `namespace/name` of the pool -> values.
        self._pools: Mapping[str, Collection[KnownPool]] = {}
        self._standbys: Mapping[str, Collection[Standby]] = {}
        self._deleted: set[str] = set()  # uids that the indices hold and the API server has not
        self._overlay: ObjectOverlay[Standby] = ObjectOverlay(lambda standby: standby.uid, _agrees)
        self._claiming: set[str] = set()  # uids: of two claims in this process one is spared
        self._made: dict[str, MadePool] = {}
        self._fits: dict[tuple[str, str], str] = {}  # (revision, template) -> why not
        self._loads: dict[str, _Loads] = {}
        self._refused: dict[str, tuple[str, float]] = {}
        self._written: dict[str, tuple[str, Mapping[str, Any]]] = {}

    def attach(
        self,
        pools: Mapping[str, Collection[KnownPool]],
        standbys: Mapping[str, Collection[Standby]],
    ) -> None:
        """The live indices, once kopf has made them."""
        self._pools, self._standbys = pools, standbys

    def uids(self) -> dict[str, str]:
        """All that the indices hold and no deployment has: uid -> what it is, for the log."""
        found = {known.uid: key for key, there in self._pools.items() for known in there}
        found |= {s.uid: key for key, there in self._standbys.items() for s in there}
        return {uid: POOL_PREFIX + key for uid, key in found.items() if uid not in self._deleted}

    def gone(self, key: str, uid: str) -> None:
        """The watch said that a pod of this pool was deleted."""
        self._overlay.gone(key, uid)

    def deletion_missed(self, uid: str) -> None:
        """It was deleted and no watch has said so."""
        self._deleted.add(uid)
        self.ledger.wake()

    def known(self, key: str) -> KnownPool | None:
        """None: it is gone, or being deleted."""
        for known in self._pools.get(key, ()):
            if not known.is_deleting and known.uid not in self._deleted:
                return known
        return None

    def made(self, key: str) -> MadePool | None:
        """With what its standbys are made of; None: it is gone, or being deleted."""
        known = self.known(key)
        if known is None:
            return None
        namespace = known.body["metadata"]["namespace"]
        names = known.manifest.spec.models if known.manifest is not None else ()
        there = {name: self._cache.known(f"{namespace}/{name}") for name in names}
        fetched = tuple(fetch_flags(m.manifest for m in there.values() if m and m.manifest))
        missing = tuple(name for name, model in there.items() if model is None)
        before = self._made.get(key)
        if (
            before is None
            or before.known is not known
            or (before.fetched, before.pool.missing_models) != (fetched, missing)
        ):
            before = self._made[key] = make_pool(known, fetched, missing, self._settings)
        return before

    def keys(self) -> Collection[str]:
        """Every pool that is not being deleted."""
        return [key for key in self._pools if self.known(key) is not None]

    def standbys(self, key: str) -> list[Standby]:
        """Its pods, claimed ones too, as they are after our own writes."""
        cached = [s for s in self._standbys.get(key, ()) if s.uid not in self._deleted]
        there = self._overlay.apply(key, cached, self._clock())
        return [of_node(standby, self._cache.node(standby.node)) for standby in there]

    def observe(self, key: str) -> PoolObserved | None:
        """From the cache."""
        made = self.made(key)
        if made is None:
            self._made.pop(key, None)
            self._written.pop(key, None)
            self._refused.pop(key, None)
            self._loads.pop(key, None)
            self._overlay.forget(key)
            return None
        refusal, until = self._refused.get(key, ("", 0.0))
        return PoolObserved(
            pool=made.pool,
            standbys=tuple(self.standbys(key)),
            accelerators=self._cache.accelerators(),
            counts=self.ledger.of(key),
            refusal=refusal if self._clock() < until else "",
        )

    def recall(self, key: str) -> PoolStatus | None:
        """From the object's own status; one that another hand made unreadable begins anew."""
        known = self.known(key)
        try:
            return parse_pool(known.body.get("status", {})) if known else None
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            log.warning("the status is unreadable and begins anew", pool=key, error=repr(error))
            return None

    def offers(self, deployment: Known) -> tuple[PoolOffer, ...]:
        """What the pools of its namespace have for it: pods cannot move to another one."""
        if not len(self._pools) or deployment.manifest is None or deployment.error:
            return ()
        namespace = deployment.metadata["namespace"]
        found = []
        for key in self._pools:
            made = self.made(key) if key.startswith(f"{namespace}/") else None
            if made is None or made.pool.error:
                continue
            ready = (s for s in self.standbys(key) if is_claimable(s))
            offer = PoolOffer(
                pool=key,
                accelerator=made.pool.accelerator,
                refusal=self._why_paused(key) or self._why_not(deployment, made),
                standbys=tuple(
                    s
                    for s in ready
                    if s.template == made.pool.template and s.uid not in self._claiming
                ),
            )
            found.append(offer)
        return tuple(found)

    async def claim(self, action: Claim, owner: Known) -> tuple[Standby, Object] | None:
        """The first of the standbys that is free, and its pod, now the deployment's; None: none."""
        for standby in action.candidates:
            if standby.uid in self._claiming or not self._is_free(standby):
                continue
            self._claiming.add(standby.uid)
            try:
                pod = await self._take(standby, action, owner)
            finally:
                self._claiming.discard(standby.uid)
            if pod is not None:
                claimed = read_standby(pod) or standby
                self._overlay.put(standby.pool, standby.uid, claimed, self._clock())
                self.ledger.add(standby.pool, PoolCounts(hits=1))
                return standby, pod
        return None

    def _is_free(self, standby: Standby) -> bool:
        return any(s.uid == standby.uid and is_claimable(s) for s in self.standbys(standby.pool))

    async def _take(self, standby: Standby, action: Claim, owner: Known) -> Object | None:
        """One write. What the API server has is looked at where it is not known what became of it.

        A pod's version changes with its status, too; so one that was not claimed is tried again.
        """
        revision, ordinal = action.create.revision, action.create.ordinal
        for _ in range(TRIES):
            patch = claim_patch(standby, owner.metadata, revision, ordinal, self._clock())
            try:
                if pod := await self._api.swap_owner(standby.name, standby.namespace, patch):
                    return pod
            except PassingError as error:
                log.warning("was it claimed?", standby=standby.id, error=str(error))
            pod = await self._api.read_pod(standby.name, standby.namespace)
            now = read_standby(pod) if pod and pod["metadata"]["uid"] == standby.uid else None
            if pod is None or now is None or not now.is_unclaimed:
                labels = pod["metadata"]["labels"] if pod else {}
                is_ours = patch["metadata"]["labels"].items() <= labels.items()
                if now is not None and now.claimed_by == _key(owner) and is_ours:
                    return pod
                # Others here need not try it: the watch will say the same.
                lost = now or replace(standby, stopping=True)
                self._overlay.put(standby.pool, standby.uid, lost, self._clock())
                return None
            standby = now
        return None

    def loaded(self, pool: str, error: str) -> None:
        """How telling a claimed worker its model ended; empty: well."""
        if not error:
            self._loads.pop(pool, None)
            return
        loads = self._loads.setdefault(pool, _Loads())
        loads.failed, loads.at, loads.why = loads.failed + 1, self._clock(), error

    def _why_paused(self, key: str) -> str:
        loads = self._loads.get(key)
        if loads is None or loads.failed < FAILED_LOADS:
            return ""
        if self._clock() - loads.at >= PAUSE:
            del self._loads[key]
            return ""
        return f"{loads.failed} claimed workers in a row could not be told to load: {loads.why}"

    def _why_not(self, deployment: Known, made: MadePool) -> str:
        which = (deployment.revision, made.pool.template)
        if which not in self._fits and deployment.manifest is not None:
            if len(self._fits) >= REFUSALS_KEPT:
                self._fits.clear()
            template = pod_template(deployment.manifest, self._settings)
            self._fits[which] = why_not_claimable(template, made.template)
        return self._fits[which]

    async def carry_out(self, action: PoolAction, seen: PoolObserved) -> None:
        """PassingError for what may work later; a refusal is shown in the status."""
        key = seen.pool.key
        made = self.made(key)
        if made is None:
            return
        match action:
            case AddStandby():
                await self._add(action, made, key)
            case RemoveStandby(standby=standby):
                if standby.uid in self._claiming or not self._may_remove(standby):
                    return
                if await self._api.delete_standby(standby, GRACE):
                    log.info("standby removed", pool=key, worker=standby.name, reason=action.reason)
                    gone = replace(standby, stopping=True)
                    self._overlay.put(key, standby.uid, gone, self._clock())

    def _may_remove(self, standby: Standby) -> bool:
        return any(
            s.uid == standby.uid and not s.claimed_by and not s.stopping
            for s in self.standbys(standby.pool)
        )

    async def _add(self, action: AddStandby, made: MadePool, key: str) -> None:
        if action.name != standby_name(made.pool.name, made.pool.template, action.ordinal):
            return  # it changed since: the next reconcile decides anew
        pod = standby_pod(made, action.name, self._settings)
        class_ = None
        if made.pool.accelerator:
            class_ = self._cache.accelerator_class(made.pool.accelerator)
            if class_ is None:
                return
            pod = arranged(placed(pod, class_), class_, spread=False)
        try:
            if class_ is not None:
                owner = made.known.body["metadata"]
                claims = self._api.device_claims
                pod = await claims.claimed(pod, class_, owner, warm_pool.KIND)
            created, is_new = await self._api.create_pod(pod, made.pool.uid)
        except RejectedError as error:
            self._refused[key] = (str(error), self._clock() + REFUSAL_STANDS)
            raise PassingError(str(error)) from error
        self._refused.pop(key, None)
        standby = read_standby(created)
        if standby is not None:
            self._overlay.put(key, standby.uid, standby, self._clock())
        if is_new:
            log.info("standby started", pool=key, worker=action.name, reason=action.reason)

    async def write_status(self, seen: PoolObserved, status: PoolStatus) -> None:
        """Server-side apply, when it differs from what was written last."""
        pool = seen.pool
        rendered = render_pool(status)
        if self._written.get(pool.key) == (pool.uid, rendered):
            return
        before = self._written.get(pool.key)
        try:
            await self._api.apply_status(
                pool.namespace,
                pool.name,
                pool.uid,
                rendered,
                kind=warm_pool.KIND,
                plural=warm_pool.PLURAL,
            )
        except RejectedError as error:
            raise PassingError(str(error)) from error
        self._written[pool.key] = (pool.uid, rendered)
        await self._announce(pool.key, before[1] if before else {}, rendered)

    async def _announce(
        self, key: str, before: Mapping[str, Any], after: Mapping[str, Any]
    ) -> None:
        """An Event when it stalls, and when it is full again; best effort."""
        known = self.known(key)
        stalled, was = _condition(after, "Stalled"), _condition(before, "Stalled")
        kind: Literal["Normal", "Warning"] = "Warning"
        if stalled["status"] == "True" and was.get("reason") != stalled["reason"]:
            reason, note = stalled["reason"], stalled["message"]
        elif was.get("status") == "True" and stalled["status"] == "False":
            kind, reason, note = "Normal", "Recovered", f"{was['reason']} is over"
        else:
            return
        if known is None:
            return
        try:
            await self._api.post_event(
                known.body, kind=kind, reason=reason, note=note, object_kind=warm_pool.KIND
            )
        except (PassingError, RejectedError) as error:
            log.warning("event not posted", reason=reason, error=str(error))


def _key(owner: Known) -> str:
    """`namespace/name` of the deployment."""
    return f"{owner.metadata['namespace']}/{owner.metadata['name']}"


def _agrees(cached: Standby, made: Standby) -> bool:
    """Whether the watch shows what we did."""
    return cached.claimed_by == made.claimed_by and cached.stopping >= made.stopping


def _condition(rendered: Mapping[str, Any], type_: str) -> Mapping[str, Any]:
    return next((c for c in rendered.get("conditions", ()) if c["type"] == type_), {})

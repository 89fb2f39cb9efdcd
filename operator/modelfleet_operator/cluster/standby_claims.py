"""Claims: the one write that makes a standby a deployment's, and which standbys it may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from ..api.model_deployment import ModelDeployment
from ..decisions.actions import Claim
from ..decisions.claiming import is_claimable
from ..decisions.pool import count_on
from ..decisions.pool_observed import PoolCounts, PoolObserved
from ..decisions.standby import PoolOffer, Standby
from ..errors import PassingError
from ..pools import PoolLedger
from .api import ClusterApi
from .claimable import why_not_claimable
from .known import Known
from .observing import Object
from .pods import PodSettings, pod_template
from .pool_cache import PoolCache
from .pool_pods import MadePool, claim_patch
from .standbys import read_standby

TRIES = 3  # of a claim whose pod was changed meanwhile, and not claimed
FAILED_LOADS = 2  # in a row, after which a pool's standbys are left alone for a while
PAUSE = 60.0  # seconds of that
REFUSALS_KEPT = 10_000

log = structlog.get_logger()


@dataclass(slots=True)
class _Loads:
    failed: int = 0  # in a row
    at: float = 0.0
    why: str = ""


class StandbyClaims:
    """A successor needs nothing of it: the API server has all."""

    def __init__(
        self,
        api: ClusterApi,
        settings: PodSettings,
        clock: Callable[[], float],
        cache: PoolCache,
        ledger: PoolLedger,
    ) -> None:
        self._api = api
        self._settings = settings
        self._clock = clock
        self._cache = cache
        self._ledger = ledger
        self._claiming: set[str] = set()  # uids: of two claims in this process one is spared
        self._fits: dict[tuple[str, str], str] = {}  # (revision, template) -> why not
        self._loads: dict[str, _Loads] = {}  # by pool
        self._sharing: dict[str, set[str]] = {}  # by pool: keys of the deployments that it fits

    def is_claiming(self, uid: str) -> bool:
        """Whether a claim of this standby is on its way."""
        return uid in self._claiming

    def forget(self, pool: str) -> None:
        """The pool is gone."""
        self._loads.pop(pool, None)
        self._sharing.pop(pool, None)

    def forget_deployment(self, key: str) -> None:
        """It is gone, and shares no pool any more."""
        for sharing in self._sharing.values():
            sharing.discard(key)

    def offers(self, deployment: Known) -> tuple[PoolOffer, ...]:
        """What the pools of its namespace have for it: pods cannot move to another one."""
        if deployment.manifest is None or deployment.error:
            return ()
        found = (
            self._cache.made(key) for key in self._cache.keys_in(deployment.metadata["namespace"])
        )
        pools = [made for made in found if made is not None and not made.pool.error]
        return tuple(self._offer(deployment, deployment.manifest, made) for made in pools)

    def _offer(self, deployment: Known, manifest: ModelDeployment, made: MadePool) -> PoolOffer:
        """Of a pool that no start of the deployment could use only its name and class are told."""
        pool, spec = made.pool, manifest.spec
        offer = PoolOffer(
            pool=pool.key, accelerator=pool.accelerator, loaded_model=pool.loaded_model
        )
        is_asked = (
            pool.accelerator in (spec.placement.accelerators or ("",))
            and (spec.cold_start.warm_pool or pool.name) == pool.name
        )
        refusal = ""
        if is_asked:
            refusal = self._why_paused(pool.key) or self._why_not(deployment, manifest, made)
        sharing = self._sharing.setdefault(pool.key, set())
        if refusal or not is_asked:
            sharing.discard(deployment.key)
            return replace(offer, refusal=refusal)
        sharing.add(deployment.key)
        there = self._cache.standbys(pool.key)
        class_ = self._cache.cluster.accelerator_class(pool.accelerator)
        prices = {} if class_ is None else {class_.name: class_.seen()}
        seen = PoolObserved(pool=pool, standbys=tuple(there), accelerators=prices)
        free = (
            standby
            for standby in there
            if is_claimable(standby)
            and standby.template == pool.template
            and standby.uid not in self._claiming
        )
        return replace(
            offer,
            standbys=tuple(free),
            counted_on=count_on(seen, self._clock(), len(sharing)),
        )

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
                self._cache.wrote(read_standby(pod) or standby)
                self._ledger.add(standby.pool, PoolCounts(hits=1))
                return standby, pod
        return None

    def _is_free(self, standby: Standby) -> bool:
        there = self._cache.standbys(standby.pool)
        return any(s.uid == standby.uid and is_claimable(s) for s in there)

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
                if now is not None and now.claimed_by == owner.key and is_ours:
                    return pod
                # Others here need not try it: the watch will say the same.
                self._cache.wrote(now or replace(standby, stopping=True))
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

    def _why_not(self, deployment: Known, manifest: ModelDeployment, made: MadePool) -> str:
        which = (deployment.revision, made.pool.template)
        if which not in self._fits:
            if len(self._fits) >= REFUSALS_KEPT:
                self._fits.clear()
            template = pod_template(manifest, self._settings)
            self._fits[which] = why_not_claimable(template, made.template)
        return self._fits[which]

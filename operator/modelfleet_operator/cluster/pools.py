"""Warm pools on a cluster: what the decisions about them see, and what is done about them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import structlog

from ..api import warm_pool
from ..decisions.pool import AddStandby, PoolAction, RemoveStandby, standby_name
from ..decisions.pool_observed import PoolObserved
from ..decisions.pool_status import PoolStatus, parse_pool, render_pool
from ..decisions.standby import Standby
from ..errors import PassingError, RejectedError
from ..pools import PoolLedger
from .accelerators import placed
from .api import IDLE_GRACE, ClusterApi
from .applied_status import AppliedStatuses, EventKind
from .cache import ClusterCache
from .packing import arranged
from .pods import POOL, PodSettings
from .pool_cache import PoolCache
from .pool_pods import MadePool, standby_pod
from .refusals import REFUSAL_STANDS
from .standby_claims import StandbyClaims
from .standbys import read_standby
from .worker_policies import WorkerPolicies

log = structlog.get_logger()


class ClusterPools:
    """Implements `pools.PoolBody`. A successor needs nothing of it: the API server has all."""

    def __init__(
        self,
        api: ClusterApi,
        settings: PodSettings,
        clock: Callable[[], float],
        cache: ClusterCache,
        bundle: Callable[[], bytes],
    ) -> None:
        """`bundle`: see ClusterBody."""
        self._api = api
        self._bundle = bundle
        self._settings = settings
        self._clock = clock
        self.ledger = PoolLedger()
        self.cache = PoolCache(settings, clock, cache)
        self.claims = StandbyClaims(api, settings, clock, self.cache, self.ledger)
        self._policies = WorkerPolicies(api, clock, settings.ingress_from)
        self._refused: dict[str, tuple[str, float]] = {}
        self._statuses: AppliedStatuses[None] = AppliedStatuses(
            api, clock, kind=warm_pool.KIND, plural=warm_pool.PLURAL
        )

    def deletion_missed(self, uid: str) -> None:
        """It was deleted and no watch has said so."""
        self.cache.deletion_missed(uid)
        self.ledger.wake()

    def keys(self) -> Collection[str]:
        """Every pool that is not being deleted."""
        return self.cache.keys()

    def observe(self, key: str) -> PoolObserved | None:
        """From the cache."""
        made = self.cache.made(key)
        if made is None:
            self._refused.pop(key, None)
            self._statuses.forget(key)
            self.cache.forget(key)
            self.claims.forget(key)
            self._policies.forget(key, POOL)
            return None
        refusal, until = self._refused.get(key, ("", 0.0))
        return PoolObserved(
            pool=made.pool,
            standbys=tuple(self.cache.standbys(key)),
            accelerators=self.cache.cluster.accelerators(),
            counts=self.ledger.of(key),
            refusal=refusal if self._clock() < until else "",
        )

    def recall(self, key: str) -> PoolStatus | None:
        """From the object's own status; one that another hand made unreadable begins anew."""
        known = self.cache.known(key)
        try:
            return parse_pool(known.body.get("status", {})) if known else None
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            log.warning("the status is unreadable and begins anew", pool=key, error=repr(error))
            return None

    async def carry_out(self, action: PoolAction, seen: PoolObserved) -> None:
        """PassingError for what may work later; a refusal is shown in the status."""
        key = seen.pool.key
        made = self.cache.made(key)
        if made is None:
            return
        match action:
            case AddStandby():
                await self._add(action, made, key)
            case RemoveStandby(standby=standby):
                if self.claims.is_claiming(standby.uid) or not self._may_remove(standby):
                    return
                if await self._api.delete_standby(standby, IDLE_GRACE):
                    log.info("standby removed", pool=key, worker=standby.name, reason=action.reason)
                    self.cache.wrote(replace(standby, stopping=True))

    def _may_remove(self, standby: Standby) -> bool:
        return any(
            s.uid == standby.uid and not s.claimed_by and not s.stopping
            for s in self.cache.standbys(standby.pool)
        )

    async def _add(self, action: AddStandby, made: MadePool, key: str) -> None:
        if action.name != standby_name(made.pool.name, made.pool.template, action.ordinal):
            return  # it changed since: the next reconcile decides anew
        pod = standby_pod(made, action.name, self._settings, self._bundle())
        class_ = None
        if made.pool.accelerator:
            class_ = self.cache.cluster.accelerator_class(made.pool.accelerator)
            if class_ is None:
                return
            pod = arranged(placed(pod, class_), class_, spread=False)
        owner = made.known.body["metadata"]
        try:
            await self._policies.keep(owner, warm_pool.KIND, POOL)
            if class_ is not None:
                claims = self._api.device_claims
                pod = await claims.claimed(pod, class_, owner, warm_pool.KIND)
            created, is_new = await self._api.create_pod(pod, made.pool.uid)
        except RejectedError as error:
            self._refused[key] = (str(error), self._clock() + REFUSAL_STANDS)
            raise PassingError(str(error)) from error
        self._refused.pop(key, None)
        standby = read_standby(created)
        if standby is not None:
            self.cache.wrote(standby)
        if is_new:
            log.info("standby started", pool=key, worker=action.name, reason=action.reason)

    async def write_status(self, seen: PoolObserved, status: PoolStatus) -> None:
        """When it differs from what was written last, with an Event on what it tells."""
        pool = seen.pool
        made = self.cache.known(pool.key) if seen.standbys else None
        if made is not None:
            owner = made.body["metadata"]
            await self._policies.keep(owner, warm_pool.KIND, POOL)
        rendered = render_pool(status)
        last = self._statuses.last(pool.key, pool.uid)
        if last is not None and last.status == rendered:
            return
        await self._statuses.apply(pool.key, pool.uid, rendered, None)
        known, news = self.cache.known(pool.key), _news(last.status if last else {}, rendered)
        if known is not None and news is not None:
            await self._statuses.post_event(known.body, *news)


def _news(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[EventKind, str, str] | None:
    """Kind, reason and note of an Event when it stalls, and when it is full again."""
    stalled, was = _condition(after, "Stalled"), _condition(before, "Stalled")
    if stalled["status"] == "True" and was.get("reason") != stalled["reason"]:
        return "Warning", stalled["reason"], stalled["message"]
    if was.get("status") == "True" and stalled["status"] == "False":
        return "Normal", "Recovered", f"{was['reason']} is over"
    return None


def _condition(rendered: Mapping[str, Any], type_: str) -> Mapping[str, Any]:
    return next((c for c in rendered.get("conditions", ()) if c["type"] == type_), {})

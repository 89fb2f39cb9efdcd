"""One loop for all warm pools: observes, decides, acts, writes. Beside the deployments' tasks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from .decisions.memory import Failures
from .decisions.pool import PoolAction, decide_pool
from .decisions.pool_observed import PoolCounts, PoolObserved
from .decisions.pool_status import PoolStatus
from .errors import PassingError
from .metrics import Metrics

TICK = 30.0  # seconds: an event that was missed heals itself this soon
RETRY = 2.0  # seconds after something outside did not work
RESTART_DELAY = 5.0  # seconds until a pool whose reconcile failed is looked at again

log = structlog.get_logger()


class PoolBody(Protocol):
    """What pools act through; both bodies implement it. All but `carry_out` wait for nothing."""

    def keys(self) -> Collection[str]:
        """`namespace/name` of every pool that exists (and is not being deleted)."""
        ...

    def observe(self, key: str) -> PoolObserved | None:
        """From caches. None: it is gone."""
        ...

    def recall(self, key: str) -> PoolStatus | None:
        """What `write_status` wrote last; None: nothing."""
        ...

    async def carry_out(self, action: PoolAction, seen: PoolObserved) -> None:
        """Idempotent: caches lag, so the same action may come again. PassingError."""
        ...

    async def write_status(self, seen: PoolObserved, status: PoolStatus) -> None:
        """Called after every decision: writes only what differs. PassingError."""
        ...


@dataclass(slots=True)
class PoolLedger:
    """Counts of each pool: what its status said when this process began, and what came since."""

    _counts: dict[str, PoolCounts] = field(default_factory=dict)
    wake: Callable[[], None] = lambda: None

    def begin(self, key: str, recalled: PoolStatus | None) -> None:
        """Once for each pool, before its status is written first."""
        if recalled is not None:
            counts = PoolCounts(
                hits=recalled.hits, misses=recalled.misses, seconds_saved=recalled.seconds_saved
            )
            self.add(key, counts)

    def add(self, key: str, counts: PoolCounts) -> None:
        """Something happened to the pool."""
        self._counts[key] = self.of(key).plus(counts)
        self.wake()

    def of(self, key: str) -> PoolCounts:
        """All so far."""
        return self._counts.get(key, PoolCounts())

    def forget(self, key: str) -> None:
        """The pool is gone."""
        self._counts.pop(key, None)


@dataclass(slots=True)
class _Known:
    failures: Failures
    status: PoolStatus | None


class PoolKeeper:
    """`wake` may be called at any time, from the event loop."""

    def __init__(
        self,
        body: PoolBody,
        ledger: PoolLedger,
        clock: Callable[[], float],
        metrics: Metrics | None = None,
    ) -> None:
        """`clock` gives Unix seconds."""
        self._body = body
        self._ledger = ledger
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._event = asyncio.Event()
        ledger.wake = self.wake
        if metrics is not None:
            metrics.collect_pools(self.statuses)

    def wake(self) -> None:
        """Something happened to a pool: all are looked at, there are few."""
        self._event.set()

    def statuses(self) -> dict[str, PoolStatus]:
        """The latest of each pool."""
        return {key: known.status for key, known in self._known.items() if known.status}

    async def run(self) -> None:
        """Reconciles until cancelled."""
        while True:
            self._event.clear()
            keys = sorted({*self._body.keys(), *self._known})
            ended = await asyncio.gather(
                *(self._reconcile(key) for key in keys), return_exceptions=True
            )
            alarms = [self._alarm(key, end) for key, end in zip(keys, ended, strict=True)]
            delay = min((at - self._clock() for at in alarms if at is not None), default=TICK)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(max(delay, 0.001), TICK)):
                    await self._event.wait()

    def _alarm(self, key: str, end: float | BaseException | None) -> float | None:
        if isinstance(end, Exception):
            log.error("reconciling failed and starts again", pool=key, exc_info=end)
            return self._clock() + RESTART_DELAY
        if isinstance(end, BaseException):
            raise end
        return end

    async def _reconcile(self, key: str) -> float | None:
        """When to come back at the latest; None: when something happens."""
        seen = self._body.observe(key)
        if seen is None:
            self._known.pop(key, None)
            self._ledger.forget(key)
            return None
        if key not in self._known:
            recalled = self._body.recall(key)
            self._ledger.begin(key, recalled)
            self._known[key] = _Known(Failures(), recalled)
            seen = self._body.observe(key) or seen  # with the counts
        known = self._known[key]
        plan = decide_pool(seen, self._clock(), known.failures, known.status)
        known.failures, known.status = plan.failures, plan.status
        try:
            for action in plan.actions:
                await self._body.carry_out(action, seen)
            await self._body.write_status(seen, plan.status)
        except PassingError as error:
            log.warning("tried again soon", pool=key, error=str(error), seconds=RETRY)
            return self._clock() + RETRY
        return plan.wake_at

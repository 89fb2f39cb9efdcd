"""A warm pool on simulated time, which `decide_pool` keeps."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ..decisions.claiming import is_claimable
from ..decisions.memory import Failures
from ..decisions.observed import Accelerator
from ..decisions.pool import AddStandby, count_on, decide_pool
from ..decisions.pool_observed import Pool, PoolCounts, PoolObserved
from ..decisions.pool_status import PoolStatus
from ..decisions.standby import PoolOffer, Standby
from .outcome import History
from .scenario import ColdStart
from .worker import START


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """What a pool's standbys are."""

    pool: Pool
    start: ColdStart  # until one can be claimed
    refusal: str = ""  # why the deployment's workers cannot be made of them; empty: they can
    price: float | None = None  # an hour of one; None: not known
    accelerators: Mapping[str, Accelerator] = field(default_factory=dict)


class SimulatedPool:
    """`schedule` gets a time and a function; `changed` is called when there is more to claim."""

    def __init__(
        self,
        options: PoolOptions,
        history: History,
        schedule: Callable[[float, Callable[[float], None]], None],
        changed: Callable[[float], None],
        seed: int,
    ) -> None:
        self._options = options
        self._history = history
        self._schedule = schedule
        self._changed = changed
        self._chance = random.Random(seed)
        self._standbys: dict[str, Standby] = {}  # by uid; claimed ones, too
        self._billed: dict[str, float] = {}  # since when, of unclaimed ones that hold a node
        self._made = 0
        self._counts = PoolCounts()
        self._failures = Failures()
        self._status: PoolStatus | None = None
        self._wake_at = float("inf")

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return self._options.pool.key

    @property
    def loads(self) -> str:
        """The deployment whose model its standbys hold, `namespace/name`; empty: none."""
        return self._options.pool.loaded_model

    @property
    def paid(self) -> int:
        """Standbys that hold a node now, and that this pool pays."""
        return len(self._billed)

    def notes(self) -> list[str]:
        """What a person should know of it."""
        found = [f"nothing is claimed: {self._options.refusal}"] if self._options.refusal else []
        stalled = self._status.condition("Stalled") if self._status else None
        if stalled is not None and stalled.holds:
            found.append(stalled.message)
        return [f"WarmPool {self.key}: {note}" for note in found]

    def offer(self, now: float) -> PoolOffer:
        """What it has for the deployment."""
        options = self._options
        return PoolOffer(
            pool=options.pool.key,
            accelerator=options.pool.accelerator,
            loaded_model=options.pool.loaded_model,
            refusal=options.refusal,
            standbys=tuple(s for s in self._standbys.values() if is_claimable(s)),
            counted_on=count_on(self._observe(), now + START),
        )

    def note(self, counts: PoolCounts) -> None:
        """Something happened to it."""
        self._counts = self._counts.plus(counts)

    def claim(self, candidates: Sequence[Standby], key: str, now: float) -> Standby | None:
        """The first of them that is free, now the deployment's; None: none is."""
        for wanted in candidates:
            standby = self._standbys.get(wanted.uid)
            if standby is None or not is_claimable(standby):
                continue
            self._standbys[standby.uid] = replace(standby, claimed_by=key, claimed_at=now + START)
            self._pay(standby.uid, now)
            self.note(PoolCounts(hits=1))
            self.reconcile(now)
            return standby
        return None

    def release(self, uid: str, now: float) -> None:
        """A worker is gone; it may have been a standby of this pool."""
        if self._standbys.pop(uid, None) is not None:
            self.reconcile(now)

    def close(self, now: float) -> None:
        """Adds what still stands by to the bill."""
        for uid in list(self._billed):
            self._pay(uid, now)

    def reconcile(self, now: float) -> None:
        """Decides and acts."""
        plan = decide_pool(self._observe(), now + START, self._failures, self._status)
        self._failures, self._status = plan.failures, plan.status
        for action in plan.actions:
            if isinstance(action, AddStandby):
                self._add(action, now)
            else:
                self._remove(action.standby, now)
        if plan.wake_at is not None:
            self._wake_at = max(plan.wake_at - START, now + 0.001)
            self._schedule(self._wake_at, self._wake)

    def _observe(self) -> PoolObserved:
        return PoolObserved(
            pool=self._options.pool,
            standbys=tuple(self._standbys.values()),
            accelerators=self._options.accelerators,
            counts=self._counts,
        )

    def _wake(self, now: float) -> None:
        if now == self._wake_at:
            self.reconcile(now)

    def _add(self, action: AddStandby, now: float) -> None:
        pool, start = self._options.pool, self._options.start
        self._made += 1
        uid = f"{pool.key}/{self._made}"
        self._standbys[uid] = Standby(
            namespace=pool.namespace,
            name=action.name,
            uid=uid,
            pool=pool.key,
            template=pool.template,
            ordinal=action.ordinal,
            created=now + START,
            accelerator=pool.accelerator,
            accelerator_generation=_generation(self._options, pool.accelerator),
        )
        placed = now + start.node.draw(self._chance)
        self._schedule(placed, partial(self._place, uid))
        up = placed + start.image.draw(self._chance)
        if self.loads:
            up += sum(s.draw(self._chance) for s in (start.weights, start.load, start.first_token))
        self._schedule(up, partial(self._come_up, uid))

    def _place(self, uid: str, now: float) -> None:
        standby = self._standbys.get(uid)
        if standby is not None and standby.is_unclaimed:
            self._standbys[uid] = replace(standby, placed_at=now + START)
            self._billed[uid] = now

    def _come_up(self, uid: str, now: float) -> None:
        standby = self._standbys.get(uid)
        if standby is not None and standby.is_unclaimed:
            self._standbys[uid] = replace(standby, is_up=True, address="simulated:1")
            self._changed(now)
            self.reconcile(now)

    def _remove(self, standby: Standby, now: float) -> None:
        """At once: nothing runs on it."""
        self._pay(standby.uid, now)
        del self._standbys[standby.uid]
        self._changed(now)

    def _pay(self, uid: str, now: float) -> None:
        since = self._billed.pop(uid, None)
        if since is None or now <= 0:
            return  # before the first request nothing is billed
        hours = (now - max(since, 0.0)) / 3600
        self._history.standby_hours += hours
        if self._options.price is not None:
            self._history.pay("standby", hours * self._options.price)


def _generation(options: PoolOptions, name: str) -> int:
    found = options.accelerators.get(name)
    return found.generation if found is not None else 0

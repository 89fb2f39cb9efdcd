"""The third body: workers on simulated time. It carries plans out as the other two bodies do."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

from ..decisions.actions import (
    Action,
    Claim,
    Create,
    Credit,
    Forget,
    Record,
    Remove,
    Reroute,
    Stop,
    Unroute,
)
from ..decisions.capacity import SPOT
from ..decisions.observed import (
    Observed,
    PastRevision,
    Worker,
)
from ..decisions.pool_observed import PoolCounts
from .engine import Engine
from .gateway import Gateway
from .market import SpotMarket
from .options import FleetOptions
from .outcome import History
from .pool import SimulatedPool
from .reclaims import Reclaims
from .starts import ADDRESS, Starts
from .worker import START, SimulatedWorker


class SimulatedFleet:
    """`schedule` gets a time and a function: what the workers do by themselves.

    `note_due` is called with a worker whose engine has another next event.
    """

    def __init__(
        self,
        options: FleetOptions,
        gateway: Gateway,
        history: History,
        schedule: Callable[[float, Callable[[float], None]], None],
        wake: Callable[[float], None],
        note_due: Callable[[SimulatedWorker], None],
    ) -> None:
        self.deployment = options.deployment
        self.workers: dict[str, SimulatedWorker] = {}  # by name
        self.version = 0  # changes whenever decisions would see another fleet
        self.moving: list[
            SimulatedWorker
        ] = []  # whose streams go on elsewhere, as soon as they can
        self._options = options
        self._gateway = gateway
        self._history = history
        self._schedule = schedule
        self._wake = wake
        self._note_due = note_due
        self._revisions: dict[str, int] = {}
        self._started = 0
        load = options.calibration.load_seconds
        self._starting = options.scenario.starting(load)
        self._claiming = {
            is_loaded: options.scenario.claiming(load, is_loaded=is_loaded)
            for is_loaded in (False, True)
        }
        market = SpotMarket(options.scenario.spot, options.seed)
        self._reclaims = Reclaims(
            market,
            options.scenario.spot.notice,
            self.workers,
            schedule,
            self._note_notice,
            self._lose,
        )
        self._starts = Starts(market, options.seed, schedule, self._get_node, self._come_further)
        self.pools = [
            SimulatedPool(pool, history, schedule, self._pool_changed, options.seed + place)
            for place, pool in enumerate(options.pools)
        ]

    def begin(self, now: float) -> None:
        """The fleet is applied: its pools fill up."""
        for pool in self.pools:
            pool.reconcile(now)
        self._reclaims.begin()

    def observe(self, now: float) -> Observed:
        """What a body's caches say."""
        return Observed(
            deployment=self.deployment,
            workers=tuple(w.seen for w in self.workers.values()),
            accelerators=self._options.accelerators,
            owners=dict.fromkeys(self.deployment.served_names, self.deployment.key),
            history=tuple(PastRevision(revision=r, number=n) for r, n in self._revisions.items()),
            pools=tuple(pool.offer(now) for pool in self.pools),
        )

    @property
    def structure(self) -> tuple[int, ...]:
        """All that a plan reads beside the load: equal ones plan alike (decisions/steady.py)."""
        if len(self._gateway.ready) == len(self.workers):
            return (self.version,)
        draining = (w.outstanding for w in self.workers.values() if not w.seen.is_serving)
        return (self.version, *draining)

    def carry_out(self, action: Action, now: float) -> None:
        """At once: what it takes on a cluster is far below a second."""
        self.version += 1
        match action:
            case Create():
                self._create(action, now)
            case Claim():
                self._claim(action, now)
            case Credit(worker=worker, seconds=seconds):
                self._history.seconds_saved += seconds
                self._note(worker.claimed_from, PoolCounts(seconds_saved=seconds))
            case Record(revision=revision, number=number):
                self._revisions[revision] = number
            case Forget(revision=revision):
                self._revisions.pop(revision, None)
            case Unroute() | Reroute() | Stop() | Remove():
                found = self.workers.get(action.worker.name)
                if found is not None and found.seen.uid == action.worker.uid:
                    self._change(found, action, now)

    def hand_over(self, ids: Collection[str], now: float) -> None:
        """The operator's view says of these workers that what runs on them goes on elsewhere."""
        self.moving = [w for w in self.workers.values() if w.seen.id in ids] if ids else []
        self.move_streams(now)

    def move_streams(self, now: float) -> None:
        """As many as find a slot elsewhere; the others run on where they are."""
        for worker in self.moving:
            others = (w for w in self._gateway.ready if w is not worker)
            free = sum(max(w.slots - w.outstanding, 0) for w in others)
            most = min(free - len(self._gateway.resumed), worker.outstanding)
            if most > 0 and not worker.is_gone and worker.seen.failure is None:
                self._history.moved += self._evict(worker, most, now)

    def close(self, now: float) -> None:
        """Adds what still runs to the bill."""
        for worker in self.workers.values():
            worker.uses(now, "")
            self._charge(worker)
        self._history.interrupted = self._reclaims.count
        for pool in self.pools:
            pool.close(now)
            self._history.notes += pool.notes()

    def _change(
        self, worker: SimulatedWorker, action: Unroute | Reroute | Stop | Remove, now: float
    ) -> None:
        match action:
            case Unroute():
                worker.seen = replace(worker.seen, draining_since=now + START)
                self._leave(worker, now)
            case Reroute():
                worker.seen = replace(worker.seen, draining_since=None)
                worker.uses(now, "ready" if worker.is_ready else "cold")
                self._route(worker, now)
            case Stop():
                if not worker.seen.stopping:
                    worker.seen = replace(worker.seen, stopping=True)
                    self._leave(worker, now)
                    self._history.moved += self._evict(worker, None, now)
                    end = now + self._options.scenario.stop_seconds
                    self._schedule(end, partial(self._end, worker))
            case Remove():
                self._forget(worker, now)

    def _create(self, create: Create, now: float) -> None:
        if create.name in self.workers:
            return
        self._started += 1
        class_ = self._options.accelerators.get(create.accelerator)
        worker = self._add(
            Worker(
                namespace=self.deployment.namespace,
                name=create.name,
                uid=str(self._started),
                revision=create.revision,
                ordinal=create.ordinal,
                created=now + START,
                accelerator=create.accelerator,
                accelerator_generation=class_.generation if class_ else 0,
                capacity=create.capacity,
            )
        )
        if now >= 0:
            self._history.created += 1
        if create.missed:
            self._history.misses += now >= 0
            self._note(create.missed, PoolCounts(misses=1))
        self._starts.create(worker, self._starting, create.avoid_zones, now)

    def _claim(self, action: Claim, now: float) -> None:
        taken, holds_model = None, False
        for pool in self.pools:
            if taken is None:
                taken = pool.claim(action.candidates, self.deployment.key, now)
                holds_model = pool.loads == self.deployment.key
        if taken is None:
            self._create(action.create, now)
            return
        create, at = action.create, now + START
        worker = self._add(
            Worker(
                namespace=taken.namespace,
                name=taken.name,
                uid=taken.uid,
                revision=create.revision,
                ordinal=create.ordinal,
                created=at,
                placed_at=at,
                started_at=at,
                address=ADDRESS,
                accelerator=taken.accelerator,
                accelerator_generation=taken.accelerator_generation,
                claimed_from=taken.pool,
                capacity=taken.capacity or create.capacity,
            )
        )
        self._history.hits += now >= 0
        self._starts.claim(worker, self._claiming[holds_model], now)

    def _add(self, seen: Worker) -> SimulatedWorker:
        options = self._options
        worker = SimulatedWorker(
            seen=seen,
            engine=Engine(
                options.calibration,
                max_sequences=options.max_sequences,
                max_batch_tokens=options.max_batch_tokens,
            ),
            slots=options.max_sequences,
        )
        self.workers[seen.name] = worker
        return worker

    def _note(self, key: str, counts: PoolCounts) -> None:
        for pool in self.pools:
            if pool.key == key:
                pool.note(counts)

    def _pool_changed(self, now: float) -> None:
        self.version += 1
        self._wake(now)

    def _get_node(self, worker: SimulatedWorker, now: float) -> None:
        worker.uses(now, "cold" if worker.seen.is_serving else "draining")
        self._reclaims.note_placed(worker, now)

    def _come_further(self, worker: SimulatedWorker, now: float) -> None:
        self.version += 1
        if worker.is_ready and worker.seen.is_serving:
            worker.uses(now, "ready")
            self._route(worker, now)
        self._wake(now)

    def _route(self, worker: SimulatedWorker, now: float) -> None:
        """The gateway may send it requests, if it is ready."""
        if worker.is_ready and worker.seen.is_serving:
            self._gateway.ready.append(worker)
            self._gateway.ready.sort(key=lambda w: w.seen.name)
            self.move_streams(now)
            self._gateway.assign(now)

    def _leave(self, worker: SimulatedWorker, now: float) -> None:
        if worker in self._gateway.ready:
            self._gateway.ready.remove(worker)
        worker.uses(now, "draining" if worker.seen.placed_at is not None else "")

    def _evict(self, worker: SimulatedWorker, most: int | None, now: float) -> int:
        """What runs on it, or so much of it, goes on elsewhere with the tokens that it has."""
        streams = worker.engine.evict(now, most)
        self._gateway.running -= len(streams)
        worker.outstanding -= len(streams)
        self._gateway.resumed.extend(streams)
        self._note_due(worker)
        if streams:
            self._gateway.assign(now)
        return len(streams)

    def _end(self, worker: SimulatedWorker, now: float) -> None:
        if not worker.is_gone:
            self._forget(worker, now)

    def _forget(self, worker: SimulatedWorker, now: float) -> None:
        worker.uses(now, "")
        worker.is_gone = True
        if self.workers.get(worker.seen.name) is worker:
            del self.workers[worker.seen.name]
            self._charge(worker)
            for pool in self.pools:
                pool.release(worker.seen.uid, now)
        self.version += 1
        self._wake(now)

    def _charge(self, worker: SimulatedWorker) -> None:
        bill, total, seen = worker.bill, self._history.bill, worker.seen
        total.serving += bill.serving
        total.idle += bill.idle
        total.cold += bill.cold
        total.draining += bill.draining
        price = self._options.price_of(seen.accelerator, seen.capacity)
        if price is not None:
            what = "spot" if seen.capacity == SPOT else "onDemand"
            self._history.pay(what, price * bill.total / 3600)

    def _note_notice(self, now: float) -> None:
        self.version += 1
        self._wake(now)

    def _lose(self, worker: SimulatedWorker, now: float) -> None:
        """Its node is gone, and what ran on it goes on elsewhere."""
        if worker.is_gone or worker.seen.failure is not None:
            return
        self.version += 1
        worker.seen = replace(worker.seen, failure="its node was taken back (spot)")
        self._leave(worker, now)
        worker.uses(now, "")
        self._history.rerun += self._evict(worker, None, now)
        self._wake(now)

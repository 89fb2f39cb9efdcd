"""The spot market takes workers back: each is told so, and its node is gone a notice later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from ..decisions.capacity import SPOT
from ..decisions.interruption import Notice
from ..decisions.signs import NoticeKind
from .market import NEVER, SpotMarket
from .worker import SimulatedWorker


class Reclaims:
    """`noticed` is called when a worker was told, `lose` when its node is gone."""

    def __init__(
        self,
        market: SpotMarket,
        notice: float,
        workers: Mapping[str, SimulatedWorker],
        schedule: Callable[[float, Callable[[float], None]], None],
        noticed: Callable[[float], None],
        lose: Callable[[SimulatedWorker, float], None],
    ) -> None:
        """`notice`: seconds; 0: none comes. `workers`: those that exist, by name."""
        self.count = 0  # workers that were taken back, or told that they will be
        self._market = market
        self._notice = notice
        self._workers = workers
        self._schedule = schedule
        self._noticed = noticed
        self._lose = lose

    def begin(self) -> None:
        """The market is open."""
        if self._market.next_reclaim < NEVER:
            self._schedule(self._market.next_reclaim, self._reclaim)

    def note_placed(self, worker: SimulatedWorker, now: float) -> None:
        """It got its node: one on spot may be taken back by itself."""
        if worker.seen.capacity == SPOT:
            at = self._market.end_of_worker(now)
            if at < NEVER:
                self._schedule(at, partial(self._take_back, worker))

    def _reclaim(self, now: float) -> None:
        there = [
            (name, w.seen.zone)
            for name, w in self._workers.items()
            if w.seen.capacity == SPOT and w.seen.placed_at is not None and w.seen.notice is None
        ]
        for name in self._market.reclaim(there):
            self._take_back(self._workers[name], now)
        self.begin()

    def _take_back(self, worker: SimulatedWorker, now: float) -> None:
        seen = worker.seen
        if worker.is_gone or seen.failure is not None or seen.notice is not None:
            return
        self.count += 1
        if self._notice <= 0:
            self._lose(worker, now)
            return
        kind, source = NoticeKind.SPOT_RECLAIM, "the spot market"
        worker.seen = replace(seen, notice=Notice(kind=kind, source=source, seconds=self._notice))
        self._schedule(now + self._notice, partial(self._lose, worker))
        self._noticed(now)

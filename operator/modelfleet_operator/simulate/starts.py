"""How a worker starts on simulated time: it waits for its node, and a phase comes after another."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from ..decisions.capacity import SPOT
from ..decisions.observed import Worker
from ..decisions.reasons import Reason
from ..decisions.startup_problem import StartupProblem
from .market import SpotMarket
from .scenario import ColdStart
from .worker import START, SimulatedWorker

NODE, IMAGE = "node", "Starting"  # phases before its process runs; others are as its Stats say
ADDRESS: Final = "simulated:1"


class Starts:
    """`placed` is called when a worker gets its node, `changed` when it comes a phase further."""

    def __init__(
        self,
        market: SpotMarket,
        seed: int,
        schedule: Callable[[float, Callable[[float], None]], None],
        placed: Callable[[SimulatedWorker, float], None],
        changed: Callable[[SimulatedWorker, float], None],
    ) -> None:
        self._market = market
        self._chance = random.Random(seed)
        self._schedule = schedule
        self._placed = placed
        self._changed = changed

    def create(
        self, worker: SimulatedWorker, start: ColdStart, avoid: tuple[str, ...], now: float
    ) -> None:
        """It waits for its node first."""
        drawn = [(name, spread.draw(self._chance)) for name, spread in start.phases.items()]
        self._find_node(worker, drawn, avoid, now)

    def claim(self, worker: SimulatedWorker, start: ColdStart, now: float) -> None:
        """Its process runs; it is told the model."""
        drawn = [(name, spread.draw(self._chance)) for name, spread in start.phases.items()]
        self._placed(worker, now)
        loads = [(name, seconds) for name, seconds in drawn if name not in (NODE, IMAGE)]
        if not any(seconds for _, seconds in loads):
            loads = [("Weights", 0.0)]
        self._begin(worker, loads, now)

    def _find_node(
        self,
        worker: SimulatedWorker,
        drawn: list[tuple[str, float]],
        avoid: tuple[str, ...],
        now: float,
    ) -> None:
        seen = worker.seen
        if worker.is_gone or seen.stopping or seen.failure is not None:
            return
        if seen.capacity == SPOT:
            zone = self._market.choose_zone(now, avoid)
            if not zone:
                if seen.problem is None:
                    worker.seen = replace(
                        seen, problem=_unschedulable("no zone has room on spot", now)
                    )
                    self._changed(worker, now)
                again = partial(self._find_node, worker, drawn, avoid)
                self._schedule(max(self._market.room_at(now), now + 0.001), again)
                return
            worker.seen = replace(seen, zone=zone)
        self._begin(worker, drawn, now)

    def _begin(self, worker: SimulatedWorker, drawn: list[tuple[str, float]], now: float) -> None:
        at = now
        for name, seconds in drawn:
            if seconds > 0 or name == IMAGE:
                worker.phases.append((name, at))
            at += seconds
        worker.ready_at = at
        self._go_on(worker, now)

    def _go_on(self, worker: SimulatedWorker, now: float) -> None:
        """Its start comes a phase further; after the last one it is ready."""
        seen = worker.seen
        if worker.is_gone or worker.is_ready or seen.stopping or seen.failure is not None:
            return
        while worker.phases and worker.phases[0][1] <= now:
            self._enter(worker, worker.phases.pop(0)[0], now)
        if not worker.phases and worker.ready_at <= now:
            worker.is_ready, worker.phase = True, ""
            worker.seen = with_process(worker.seen, now)
        else:
            at = worker.phases[0][1] if worker.phases else worker.ready_at
            self._schedule(at, partial(self._go_on, worker))
        self._changed(worker, now)

    def _enter(self, worker: SimulatedWorker, phase: str, now: float) -> None:
        if phase == NODE:
            if worker.seen.problem is None:
                worker.seen = replace(
                    worker.seen, problem=_unschedulable("no node is free yet", now)
                )
        elif phase == IMAGE:
            worker.seen = replace(worker.seen, problem=None, placed_at=now + START)
            self._placed(worker, now)
        else:
            worker.seen = with_process(worker.seen, now)
            worker.phase = phase
            worker.said += ((phase, now + START),)


def with_process(worker: Worker, now: float) -> Worker:
    """Its process runs: now, unless it did before."""
    if worker.started_at is not None:
        return worker
    return replace(worker, address=ADDRESS, started_at=now + START)


def _unschedulable(message: str, now: float) -> StartupProblem:
    return StartupProblem(reason=Reason.UNSCHEDULABLE, message=message, since=now + START)

"""The third body: workers on simulated time. It carries plans out as the other two bodies do."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from modelfleet_process.calibration import Calibration

from ..decisions.actions import Action, Create, Forget, Record, Remove, Reroute, Stop, Unroute
from ..decisions.observed import (
    Accelerator,
    Deployment,
    Observed,
    PastRevision,
    Worker,
)
from ..decisions.reasons import Reason
from ..decisions.startup_problem import StartupProblem
from .engine import Engine
from .gateway import Gateway
from .interruptions import Interruptions
from .outcome import History
from .scenario import Scenario
from .worker import SimulatedWorker

START = 1_000_000_000.0  # Unix seconds of the trace's first request


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """What the fleet's workers are."""

    deployment: Deployment
    calibration: Calibration
    scenario: Scenario
    max_sequences: int
    max_batch_tokens: int
    accelerators: Mapping[str, Accelerator] = field(default_factory=dict)
    price: float | None = None  # an hour of a worker whose class has no price; None: not known
    seed: int = 0

    def price_of(self, worker: Worker) -> float | None:
        """What an hour of its node costs; None: not known."""
        found = self.accelerators.get(worker.accelerator)
        if found is not None and found.price is not None:
            return float(found.price)
        return self.price


class SimulatedFleet:
    """`schedule` gets a time and a function: what the workers do by themselves."""

    def __init__(
        self,
        options: FleetOptions,
        gateway: Gateway,
        history: History,
        schedule: Callable[[float, Callable[[float], None]], None],
        wake: Callable[[float], None],
    ) -> None:
        self.deployment = options.deployment
        self.workers: dict[str, SimulatedWorker] = {}  # by name
        self.version = 0  # changes whenever decisions would see another fleet
        self._options = options
        self._gateway = gateway
        self._history = history
        self._schedule = schedule
        self._wake = wake
        self._revisions: dict[str, int] = {}
        self._started = 0
        self._chance = random.Random(options.seed)
        self._starting = options.scenario.starting(options.calibration.load_seconds)
        spot = options.scenario.spot
        self._interruptions = Interruptions(spot, options.seed) if spot.is_on else None
        if self._interruptions is not None:
            self._schedule_burst()

    def observe(self) -> Observed:
        """What a body's caches say."""
        return Observed(
            deployment=self.deployment,
            workers=tuple(w.seen for w in self.workers.values()),
            accelerators=self._options.accelerators,
            owners=dict.fromkeys(self.deployment.served_names, self.deployment.key),
            history=tuple(PastRevision(revision=r, number=n) for r, n in self._revisions.items()),
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
            case Record(revision=revision, number=number):
                self._revisions[revision] = number
            case Forget(revision=revision):
                self._revisions.pop(revision, None)
            case Unroute() | Reroute() | Stop() | Remove():
                worker = self.workers.get(action.worker.name)
                if worker is not None and worker.seen.uid == action.worker.uid:
                    self._change(worker, action, now)

    def close(self, now: float) -> None:
        """Adds what still runs to the bill."""
        for worker in self.workers.values():
            worker.uses(now, "")
            self._charge(worker)

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
                    self._hand_over(worker, now)
                    end = now + self._options.scenario.stop_seconds
                    self._schedule(end, partial(self._end, worker))
            case Remove():
                self._forget(worker, now)

    def _create(self, action: Create, now: float) -> None:
        if action.name in self.workers:
            return
        self._started += 1
        options = self._options
        at, phases = now, []
        for name, spread in self._starting.phases.items():
            seconds = spread.draw(self._chance)
            if seconds > 0 or name == "Starting":
                phases.append((name, at))
            at += seconds
        class_ = options.accelerators.get(action.accelerator)
        worker = SimulatedWorker(
            seen=Worker(
                namespace=self.deployment.namespace,
                name=action.name,
                uid=str(self._started),
                revision=action.revision,
                ordinal=action.ordinal,
                created=now + START,
                accelerator=action.accelerator,
                accelerator_generation=class_.generation if class_ else 0,
            ),
            engine=Engine(
                options.calibration,
                max_sequences=options.max_sequences,
                max_batch_tokens=options.max_batch_tokens,
            ),
            slots=options.max_sequences,
            phases=phases,
            ready_at=at,
        )
        self.workers[action.name] = worker
        if now >= 0:
            self._history.created += 1
        self._next_phase(worker, now)

    def _next_phase(self, worker: SimulatedWorker, now: float) -> None:
        """Its start comes a phase further; after the last one it is ready."""
        seen = worker.seen
        if worker.is_gone or worker.is_ready or seen.stopping or seen.failure is not None:
            return
        self.version += 1
        while worker.phases and worker.phases[0][1] <= now:
            self._enter(worker, worker.phases.pop(0)[0], now)
        if not worker.phases and worker.ready_at <= now:
            worker.is_ready, worker.phase = True, ""
            worker.seen = _with_process(worker.seen, now)
            if worker.seen.is_serving:
                worker.uses(now, "ready")
                self._route(worker, now)
        else:
            at = worker.phases[0][1] if worker.phases else worker.ready_at
            self._schedule(at, lambda at: self._next_phase(worker, at))
        self._wake(now)

    def _enter(self, worker: SimulatedWorker, phase: str, now: float) -> None:
        seen = worker.seen
        if phase == "node":
            problem = StartupProblem(
                reason=Reason.UNSCHEDULABLE, message="no node is free yet", since=now + START
            )
            worker.seen = replace(seen, problem=problem)
        elif phase == "Starting":
            worker.seen = replace(seen, problem=None, placed_at=now + START)
            worker.uses(now, "cold" if seen.is_serving else "draining")
            if self._interruptions is not None:
                worker.zone = self._interruptions.zone(self._started)
                at = self._interruptions.of_worker(seen.ordinal, now)
                if at < float("inf"):
                    self._schedule(at, lambda at: self._interrupt(worker, at))
        else:
            worker.seen = _with_process(seen, now)
            worker.phase = phase
            worker.said += ((phase, now + START),)

    def _route(self, worker: SimulatedWorker, now: float) -> None:
        """The gateway may send it requests, if it is ready."""
        if worker.is_ready and worker.seen.is_serving:
            self._gateway.ready.append(worker)
            self._gateway.ready.sort(key=lambda w: w.seen.name)
            self._gateway.assign(now)

    def _leave(self, worker: SimulatedWorker, now: float) -> None:
        if worker in self._gateway.ready:
            self._gateway.ready.remove(worker)
        worker.uses(now, "draining" if worker.seen.placed_at is not None else "")

    def _hand_over(self, worker: SimulatedWorker, now: float) -> None:
        """What runs on it goes on elsewhere, with the tokens that it has so far."""
        streams = worker.engine.evict(now)
        self._gateway.running -= worker.outstanding
        worker.outstanding = 0
        self._history.resumed += len(streams)
        self._gateway.resumed.extend(streams)
        if streams:
            self._gateway.assign(now)

    def _end(self, worker: SimulatedWorker, now: float) -> None:
        if not worker.is_gone:
            self._forget(worker, now)

    def _forget(self, worker: SimulatedWorker, now: float) -> None:
        worker.uses(now, "")
        worker.is_gone = True
        if self.workers.get(worker.seen.name) is worker:
            del self.workers[worker.seen.name]
            self._charge(worker)
        self.version += 1
        self._wake(now)

    def _charge(self, worker: SimulatedWorker) -> None:
        bill, total = worker.bill, self._history.bill
        total.serving += bill.serving
        total.idle += bill.idle
        total.cold += bill.cold
        total.draining += bill.draining
        price = self._options.price_of(worker.seen)
        if price is not None:
            self._history.cost += price * bill.total / 3600

    def _schedule_burst(self) -> None:
        if self._interruptions is not None and self._interruptions.next_burst < float("inf"):
            self._schedule(self._interruptions.next_burst, self._burst)

    def _burst(self, now: float) -> None:
        if self._interruptions is None:
            return
        placed = [(n, w.zone) for n, w in self.workers.items() if w.seen.placed_at is not None]
        for name in self._interruptions.burst(placed).workers:
            self._interrupt(self.workers[name], now)
        self._schedule_burst()

    def _interrupt(self, worker: SimulatedWorker, now: float) -> None:
        """Its node is gone, without notice: today's operator takes none."""
        if worker.is_gone or worker.seen.failure is not None:
            return
        self.version += 1
        self._history.interrupted += 1
        worker.seen = replace(worker.seen, failure="its node was taken back (spot)")
        self._leave(worker, now)
        worker.uses(now, "")
        self._hand_over(worker, now)
        self._wake(now)


def _with_process(worker: Worker, now: float) -> Worker:
    """Its process runs: now, unless it did before."""
    if worker.started_at is not None:
        return worker
    return replace(worker, address="simulated:1", started_at=now + START)

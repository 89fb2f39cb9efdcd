"""One trace through one fleet: the operator, gateway and workers on one simulated clock."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final

from modelfleet_process.overload import OverloadPolicy

from .fleet import SimulatedFleet
from .gateway import Gateway
from .options import FleetOptions
from .outcome import (
    DONE,
    NO_WORKER,
    QUEUE_FULL,
    TIMED_OUT,
    TOO_LONG,
    History,
    Requests,
)
from .planner import Planner
from .scaler import Scaler
from .trace import Trace
from .worker import SimulatedWorker

LONGEST_TAIL: Final = 86_400.0  # seconds after the last arrival; what is left then never ends
PROGRESS_EVENTS: Final = 20_000  # events between two calls of `progress`


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one simulation gives."""

    requests: Requests
    history: History


class Simulation:
    """Made for one run."""

    planner = Planner

    def __init__(self, trace: Trace, options: FleetOptions, scaler: Scaler | None = None) -> None:
        """`scaler` decides the count instead of the policy of spec.scaling."""
        self._arrivals = list(trace.arrivals)
        prompts, answers = list(trace.prompts), list(trace.answers)
        self._prompts, self._answers = prompts, answers
        self._requests = Requests.of(len(trace))
        targets = options.deployment.scaling.targets
        self._ttft_target, self._tpot_target = targets.ttft, targets.tpot
        self._history = History()
        self._events: list[tuple[float, int, object]] = []
        self._order = itertools.count()
        self._overhead = options.calibration.request_seconds
        self._longest = min(options.calibration.context_length, options.calibration.kv_tokens)
        deployment = options.deployment
        self._hold = deployment.hold_timeout
        policy = OverloadPolicy(
            order="NewestFirst" if deployment.overload_target else "Fifo",
            target=deployment.overload_target,
            hold_timeout=deployment.hold_timeout,
        )
        self._is_holding = False  # whether the queue's next timeout is scheduled
        self._gateway = Gateway(
            deployment.max_queue, policy, self._arrivals, prompts, answers, self._submit
        )
        self._counted = self._gateway.counted
        self._fleet = SimulatedFleet(
            options,
            self._gateway,
            self._history,
            self._call_at,
            self._wake,
            self._note_due,
        )
        self._planner = self.planner(
            self._fleet, self._gateway, self._history, scaler, self._call_at, options.seed + 1
        )
        self._left = len(trace)  # requests that did not end yet
        load = options.calibration.load_seconds
        slowest = max(
            (options.scenario.starting(load), options.scenario.standing_by(load)),
            key=lambda start: start.median,
        )
        self._lead = 2 * slowest.median + 60

    def _wake(self, now: float) -> None:
        """A worker changed."""
        self._planner.wake(now)

    def run(self, progress: Callable[[float], None] = lambda share: None) -> Outcome:
        """Until the last request has ended. `progress` gets the share that is done."""
        events, arrivals, count = self._events, self._arrivals, len(self._arrivals)
        last = arrivals[-1] if count else 0.0
        self._fleet.begin(-self._lead)
        self._planner.begin(-self._lead)
        place = handled = 0
        now = -self._lead
        while self._left and now < last + LONGEST_TAIL:
            handled += 1
            if handled % PROGRESS_EVENTS == 0:
                progress(min(max(now / last, 0.0), 1.0) if last else 1.0)
            if place < count and (not events or arrivals[place] < events[0][0]):
                now = arrivals[place]
                self._arrive(now, place)
                place += 1
                continue
            now, _, what = heappop(events)
            if isinstance(what, SimulatedWorker):
                if what.due == now:
                    self._advance(now, what)
            elif callable(what):
                what(now)
        self._history.ended = now
        self._planner.close(now)
        self._fleet.close(now)
        return Outcome(self._requests, self._history)

    def _arrive(self, now: float, request: int) -> None:
        gateway = self._gateway
        self._counted.last_request = now
        self._counted.requests += 1
        if not gateway.ready:
            self._history.met_cold += 1
            if self._planner.cause:
                self._refuse(request, NO_WORKER)
                return
        if self._prompts[request] + self._answers[request] > self._longest:
            self._refuse(request, TOO_LONG)
            return
        if not gateway.arrive(now, request):
            self._refuse(request, QUEUE_FULL)
            return
        if gateway.queue:
            if not self._is_holding:
                self._is_holding = True
                self._call_at(now + self._hold, self._end_holding)
            if not gateway.ready:
                self._planner.wake(now)
        self._planner.note_load(now)

    def _submit(
        self, now: float, worker: SimulatedWorker, request: int, prefill: int, answer: int
    ) -> None:
        worker.outstanding += 1
        self._gateway.running += 1
        taken = self._requests.taken
        if taken[request] != taken[request]:  # NaN: it is not one that goes on
            taken[request] = now
        worker.engine.submit(now, request, prefill, answer)
        self._note_due(worker)

    def _note_due(self, worker: SimulatedWorker) -> None:
        """Its engine may have an event earlier than it had."""
        if worker.engine.next_event < worker.due:
            worker.due = worker.engine.next_event
            heappush(self._events, (worker.due, next(self._order), worker))

    def _advance(self, now: float, worker: SimulatedWorker) -> None:
        engine = worker.engine
        if engine.next_event != now:  # it was evicted
            worker.due = math.inf
            self._note_due(worker)
            return
        first, ended = engine.advance()
        worker.due = engine.next_event
        if worker.due < math.inf:
            heappush(self._events, (worker.due, next(self._order), worker))
        requests, counted = self._requests, self._counted
        for request in first:
            if requests.first[request] != requests.first[request]:
                requests.first[request] = now + self._overhead
                if self._ttft_target:
                    counted.first_tokens += 1
                    took = now + self._overhead - self._arrivals[request]
                    counted.late += took > self._ttft_target
        if ended:
            worker.outstanding -= len(ended)
            self._gateway.running -= len(ended)
            self._left -= len(ended)
            note_service, taken = self._gateway.note_service, requests.taken
            for request in ended:
                note_service(now - taken[request])
                requests.last[request] = now + self._overhead
                if self._tpot_target and (more := self._answers[request] - 1):
                    counted.answers += 1
                    took = now + self._overhead - requests.first[request]
                    counted.slow += took > self._tpot_target * more
                requests.state[request] = DONE
            if self._fleet.moving:
                self._fleet.move_streams(now)
            if self._gateway.queue or self._gateway.resumed:
                self._gateway.assign(now)
            self._planner.note_load(now)

    def _refuse(self, request: int, why: int) -> None:
        self._requests.state[request] = why
        self._left -= 1

    def _end_holding(self, now: float) -> None:
        """The oldest of the queue may have waited for as long as it may."""
        for request in self._gateway.time_out(now):
            self._refuse(request, TIMED_OUT)
            self._history.longest_refused_wait = self._hold
        timeout = self._gateway.next_timeout(now)
        self._is_holding = timeout is not None
        if timeout is not None:
            self._call_at(timeout, self._end_holding)

    def _call_at(self, at: float, what: Callable[[float], None]) -> None:
        heappush(self._events, (at, next(self._order), what))

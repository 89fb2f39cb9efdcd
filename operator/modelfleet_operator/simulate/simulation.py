"""One trace through one fleet: the plan, the gateway and the workers on one simulated clock.

The operator plans when it would: at the gateway's signals (every 0.5 s while something changes,
within 20 ms when a request waits and no worker is ready), when a worker changes, at the moments
that the plan names, and at slow ticks.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from typing import Final

from modelfleet_process.overload import OverloadPolicy

from ..decisions.latency import Judged
from ..decisions.memory import Memory
from ..decisions.observed import Signals
from ..decisions.plan import make_plan
from ..decisions.status import Status
from ..decisions.steady import Steady, decide_steady, may_be_steady
from ..decisions.wake import TICK, next_tick
from .fleet import START, FleetOptions, SimulatedFleet
from .gateway import Gateway
from .outcome import (
    DONE,
    NO_WORKER,
    QUEUE_FULL,
    TIMED_OUT,
    TOO_LONG,
    History,
    Requests,
    Sample,
    Sampler,
)
from .scaler import Scaler, Seen
from .trace import Trace
from .worker import SimulatedWorker

# As the gateway has them (modelfleet_gateway/operator_link/link.py).
SIGNAL_PAUSE: Final = 0.5  # seconds between signals when nothing is urgent
URGENT_PAUSE: Final = 0.02  # seconds between signals at least
LONGEST_TAIL: Final = 86_400.0  # seconds after the last arrival; what is left then never ends
PROGRESS_EVENTS: Final = 20_000  # events between two calls of `progress`


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one simulation gives."""

    requests: Requests
    history: History


class Simulation:
    """Made for one run."""

    def __init__(self, trace: Trace, options: FleetOptions, scaler: Scaler | None = None) -> None:
        """`scaler` decides the count instead of the policy of spec.scaling."""
        self._arrivals = list(trace.arrivals)
        prompts, answers = list(trace.prompts), list(trace.answers)
        self._prompts, self._answers = prompts, answers
        self._requests = Requests.of(len(trace))
        self._came = 0  # requests
        # What the gateway counts of latency (fleet.proto).
        targets = options.deployment.scaling.targets
        self._ttft_target, self._tpot_target = targets.ttft, targets.tpot
        self._first_tokens = self._late = self._judged_answers = self._slow = 0
        self._history = History()
        self._events: list[tuple[float, int, object]] = []
        self._order = itertools.count()
        self._chance = random.Random(options.seed + 1)
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
        self._fleet = SimulatedFleet(
            options, self._gateway, self._history, self._call_at, self._wake
        )
        self._scaler = scaler
        if scaler is not None:
            self._set_replicas(scaler.first)
        self._memory = Memory()
        self._status: Status | None = None
        self._cause = ""  # why no worker will come, as the plan tells gateways
        self._wake_at = math.inf  # of the last whole plan, simulated seconds
        self._steady: Steady | None = None  # what was decided since then
        self._planned: tuple[int, ...] | None = None  # the structure that it was made for
        self._decided_by = ""
        self._decided_at = 0.0
        self._tick, self._plan_due = TICK, math.inf
        self._report_due = math.inf
        self._reported: object = None
        self._reported_at = -math.inf
        self._last_request = -START  # none yet
        self._left = len(trace)  # requests that did not end yet
        self._sampler = Sampler()
        self._lead = 2 * options.scenario.starting(options.calibration.load_seconds).median + 60

    def run(self, progress: Callable[[float], None] = lambda share: None) -> Outcome:
        """Until the last request has ended. `progress` gets the share that is done."""
        events, arrivals, count = self._events, self._arrivals, len(self._arrivals)
        last = arrivals[-1] if count else 0.0
        self._plan_at(-self._lead)
        if self._scaler is not None:
            self._call_at(-self._lead, self._scale)
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
        self._note_decision(now, "")
        self._fleet.close(now)
        self._history.samples = self._sampler.samples
        return Outcome(self._requests, self._history)

    def _arrive(self, now: float, request: int) -> None:
        gateway = self._gateway
        self._last_request = now
        self._came += 1
        if not gateway.ready:
            self._history.met_cold += 1
            if self._cause:
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
                self._report_by(max(now, self._reported_at + URGENT_PAUSE))
        if self._report_due == math.inf:
            self._report_by(self._next_report(now))

    def _submit(
        self, now: float, worker: SimulatedWorker, request: int, prefill: int, answer: int
    ) -> None:
        worker.outstanding += 1
        self._gateway.running += 1
        taken = self._requests.taken
        if taken[request] != taken[request]:  # NaN: it is not one that goes on
            taken[request] = now
        engine = worker.engine
        engine.submit(now, request, prefill, answer)
        if engine.next_event < worker.due:
            worker.due = engine.next_event
            heappush(self._events, (worker.due, next(self._order), worker))

    def _advance(self, now: float, worker: SimulatedWorker) -> None:
        engine = worker.engine
        if engine.next_event != now:  # it was evicted
            worker.due = math.inf
            return
        first, ended = engine.advance()
        worker.due = engine.next_event
        if worker.due < math.inf:
            heappush(self._events, (worker.due, next(self._order), worker))
        requests = self._requests
        for request in first:
            if requests.first[request] != requests.first[request]:
                requests.first[request] = now + self._overhead
                if self._ttft_target:
                    self._first_tokens += 1
                    took = now + self._overhead - self._arrivals[request]
                    self._late += took > self._ttft_target
        if ended:
            worker.outstanding -= len(ended)
            self._gateway.running -= len(ended)
            self._left -= len(ended)
            note_service, taken = self._gateway.note_service, requests.taken
            for request in ended:
                note_service(now - taken[request])
                requests.last[request] = now + self._overhead
                if self._tpot_target and (more := self._answers[request] - 1):
                    self._judged_answers += 1
                    took = now + self._overhead - requests.first[request]
                    self._slow += took > self._tpot_target * more
                requests.state[request] = DONE
            if self._gateway.queue or self._gateway.resumed:
                self._gateway.assign(now)
            if self._report_due == math.inf:
                self._report_by(self._next_report(now))

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

    def _next_report(self, now: float) -> float:
        """The next of the moments at which the gateway sends its signals."""
        if self._reported_at == -math.inf:
            return now
        since = now - self._reported_at
        return self._reported_at + max(math.ceil(since / SIGNAL_PAUSE), 1) * SIGNAL_PAUSE

    def _report_by(self, at: float) -> None:
        if at < self._report_due:
            self._report_due = at
            self._call_at(at, self._report)

    def _report(self, now: float) -> None:
        """The operator plans if the signals say anything new."""
        if now != self._report_due:
            return
        self._report_due, self._reported_at = math.inf, now
        waiting = self._gateway.waiting
        said = (waiting, [w.outstanding for w in self._fleet.workers.values()], self._fleet.version)
        if said != self._reported:
            self._reported = said
            self._reconcile(now, was_woken=True)
            self._report_by(now + SIGNAL_PAUSE)
        elif waiting or self._gateway.running:
            self._report_by(now + SIGNAL_PAUSE)

    def _wake(self, now: float) -> None:
        """A worker changed: its gateway says so at once, and the operator plans."""
        self._report_by(max(now, self._reported_at + URGENT_PAUSE))

    def _plan_at(self, at: float) -> None:
        if at < self._plan_due:
            self._plan_due = at
            self._call_at(at, self._plan)

    def _plan(self, now: float) -> None:
        if now == self._plan_due:
            self._plan_due = math.inf
            self._reconcile(now, was_woken=False)

    def _reconcile(self, now: float, *, was_woken: bool) -> None:
        fleet = self._fleet
        structure = fleet.structure
        if structure == self._planned and now < self._wake_at and self._decide_steady(now):
            return
        memory = self._steady.into(self._memory) if self._steady else self._memory
        wanted = memory.target
        plan = make_plan(
            fleet.observe(),
            self._signals(now),
            now + START,
            memory,
            self._status,
        )
        self._history.plans += 1
        self._memory, self._status = plan.memory, plan.status
        self._gateway.set_target_in_flight(plan.view.target_in_flight)
        self._steady = Steady(plan.memory.peaks, plan.memory.last_active, plan.memory.scaling)
        self._cause = "" if self._scaler is not None else plan.view.cause
        self._wake_at = math.inf if plan.wake_at is None else plan.wake_at - START
        self._note_change(now, wanted, plan.memory.target, plan.decided_by)
        for action in plan.actions:
            fleet.carry_out(action, now)
        is_steady = not plan.actions and may_be_steady(fleet.deployment, plan.memory)
        self._planned = structure if is_steady else None
        self._sample(now)
        self._tick = next_tick(
            self._tick, was_woken=was_woken, acted=bool(plan.actions), status=plan.status
        )
        tick = now + self._tick * self._chance.uniform(0.75, 1.0)
        self._plan_next(now, min(tick, self._wake_at))
        if plan.actions:
            self._wake(now)

    def _decide_steady(self, now: float) -> bool:
        """Whether a whole plan would change nothing: then it is not made."""
        fleet, steady = self._fleet, self._steady
        if steady is None:
            return False
        waiting, running = self._gateway.waiting, self._gateway.running
        decided = decide_steady(
            fleet.deployment,
            waiting=waiting,
            running=running,
            last_request=self._last_request + START,
            now=now + START,
            counts=lambda: fleet.counts(now, self._came, self._judged()),
            memory=self._memory,
            steady=steady,
        )
        if decided is None:
            return False
        self._steady, decision = decided
        self._note_decision(now, decision.decided_by if self._scaler is None else "")
        self._sample(now)
        wake_at = decision.wake_at
        self._plan_next(now, now + TICK if wake_at is None else min(now + TICK, wake_at - START))
        return True

    def _signals(self, now: float) -> Signals:
        return self._fleet.signals(now, self._last_request, self._came, self._judged())

    def _judged(self) -> Judged:
        return Judged(self._first_tokens, self._late, self._judged_answers, self._slow)

    def _plan_next(self, now: float, at: float) -> None:
        self._plan_due = math.inf
        self._plan_at(max(at, now + 0.001))

    def _scale(self, now: float) -> None:
        """The other policy decides, as an HPA does: it writes spec.scaling.replicas."""
        if self._scaler is None:
            return
        fleet, gateway = self._fleet, self._gateway
        seen = Seen(
            now=now,
            waiting=gateway.waiting,
            running=self._gateway.running,
            replicas=fleet.deployment.scaling.replicas or 0,
            ready=len(gateway.ready),
            starting=sum(w.seen.is_serving and not w.is_ready for w in fleet.workers.values()),
            busy_seconds=sum(w.engine.busy_until(now) for w in gateway.ready),
        )
        replicas, part = self._scaler.decide(seen)
        self._decided_by = part
        if replicas != seen.replicas:
            self._set_replicas(replicas)
            self._plan_at(now)
        self._call_at(now + self._scaler.interval, self._scale)

    def _set_replicas(self, replicas: int) -> None:
        deployment = self._fleet.deployment
        scaling = replace(deployment.scaling, mode="External", replicas=replicas)
        self._fleet.deployment = replace(deployment, scaling=scaling)
        self._fleet.version += 1

    def _note_change(
        self, now: float, before: int | None, after: int | None, decided_by: str
    ) -> None:
        part = self._decided_by if self._scaler is not None else decided_by
        self._note_decision(now, part)
        if now >= 0 and before is not None and after is not None and before != after:
            history = self._history
            history.changes += 1
            history.reasons[part] += 1

    def _note_decision(self, now: float, part: str) -> None:
        """Adds the time for which the last decision held."""
        if self._decided_by and now > 0:
            decided, seconds = self._history.decided_by, now - max(self._decided_at, 0.0)
            decided[self._decided_by] = decided.get(self._decided_by, 0.0) + seconds
        self._decided_by, self._decided_at = part or self._decided_by, now

    def _sample(self, now: float) -> None:
        if now >= 0:
            fleet = self._fleet
            self._sampler.add(
                Sample(
                    at=now,
                    waiting=self._gateway.waiting,
                    running=self._gateway.running,
                    wanted=self._memory.target or 0,
                    existing=sum(w.seen.failure is None for w in fleet.workers.values()),
                    ready=len(self._gateway.ready),
                )
            )

    def _call_at(self, at: float, what: Callable[[float], None]) -> None:
        heappush(self._events, (at, next(self._order), what))

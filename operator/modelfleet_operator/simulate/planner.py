"""The operator on simulated time: when it plans, and what it remembers between two plans.

It plans when it would: at the gateway's signals (every 0.5 s while something changes, within 20 ms
when a request waits and no worker is ready), when a worker changes, at the moments that the plan
names, and at slow ticks.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from ..decisions.memory import Memory
from ..decisions.plan import make_plan
from ..decisions.status import Status
from ..decisions.steady import Steady, decide_steady, may_be_steady
from ..decisions.wake import TICK, next_tick
from .fleet import SimulatedFleet
from .gateway import Gateway
from .outcome import History, Sample, Sampler
from .scaler import Scaler, Seen
from .signals import counts, last_request, signals
from .worker import START

# As the gateway has them (modelfleet_gateway/operator_link/link.py).
SIGNAL_PAUSE: Final = 0.5  # seconds between signals when nothing is urgent
URGENT_PAUSE: Final = 0.02  # seconds between signals at least


class Planner:
    """`call_at` gets a time and what to do then."""

    def __init__(
        self,
        fleet: SimulatedFleet,
        gateway: Gateway,
        history: History,
        scaler: Scaler | None,
        call_at: Callable[[float, Callable[[float], None]], None],
        seed: int,
    ) -> None:
        """`scaler` decides the count instead of the policy of spec.scaling."""
        self.cause = ""  # why no worker will come, as the plan tells gateways
        self._fleet = fleet
        self._gateway = gateway
        self._history = history
        self._scaler = scaler
        self._call_at = call_at
        self._chance = random.Random(seed)
        self._memory = Memory()
        self._status: Status | None = None
        self._wake_at = math.inf  # of the last whole plan, simulated seconds
        self._steady: Steady | None = None  # what was decided since then
        self._planned: tuple[int, ...] | None = None  # the structure that it was made for
        self._decided_by = ""
        self._decided_at = 0.0
        self._tick, self._plan_due = TICK, math.inf
        self._report_due = math.inf
        self._reported: object = None
        self._reported_at = -math.inf
        self._sampler = Sampler()

    def begin(self, now: float) -> None:
        """The fleet is applied."""
        scaler = self._scaler
        if scaler is not None:
            self._set_replicas(scaler.first)
        self._plan_at(now)
        if scaler is not None:
            self._call_at(now, self._scale)

    def close(self, now: float) -> None:
        """Adds what is still to be told to the history."""
        self._note_decision(now, "")
        self._history.samples = self._sampler.samples

    def note_load(self, now: float) -> None:
        """Requests came or ended: the gateway's next signals say so."""
        if self._report_due == math.inf:
            self._report_by(self._next_report(now))

    def wake(self, now: float) -> None:
        """A worker changed, or a request finds none: the gateway says so at once."""
        self._report_by(max(now, self._reported_at + URGENT_PAUSE))

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

    def _plan_at(self, at: float) -> None:
        if at < self._plan_due:
            self._plan_due = at
            self._call_at(at, self._plan)

    def _plan(self, now: float) -> None:
        if now == self._plan_due:
            self._plan_due = math.inf
            self._reconcile(now, was_woken=False)

    def _reconcile(self, now: float, *, was_woken: bool) -> None:
        fleet, gateway = self._fleet, self._gateway
        structure = fleet.structure
        if structure == self._planned and now < self._wake_at and self._decide_steady(now):
            return
        memory = self._steady.into(self._memory) if self._steady else self._memory
        wanted = memory.target
        plan = make_plan(
            fleet.observe(now),
            signals(fleet, gateway, now),
            now + START,
            memory,
            self._status,
        )
        self._history.plans += 1
        self._memory, self._status = plan.memory, plan.status
        gateway.set_target_in_flight(plan.view.target_in_flight)
        after = plan.memory
        self._steady = Steady(after.peaks, after.last_active, after.scaling, plan.standbys)
        self.cause = "" if self._scaler is not None else plan.view.cause
        self._wake_at = math.inf if plan.wake_at is None else plan.wake_at - START
        self._note_change(now, wanted, plan.memory.target, plan.decided_by)
        for action in plan.actions:
            fleet.carry_out(action, now)
        fleet.hand_over({route.id for route in plan.view.workers if route.hand_over}, now)
        is_steady = not plan.actions and may_be_steady(fleet.deployment, plan.memory)
        self._planned = structure if is_steady else None
        self._sample(now)
        self._tick = next_tick(
            self._tick, was_woken=was_woken, acted=bool(plan.actions), status=plan.status
        )
        tick = now + self._tick * self._chance.uniform(0.75, 1.0)
        self._plan_next(now, min(tick, self._wake_at))
        if plan.actions:
            self.wake(now)

    def _decide_steady(self, now: float) -> bool:
        """Whether a whole plan would change nothing: then it is not made."""
        fleet, gateway, steady = self._fleet, self._gateway, self._steady
        if steady is None:
            return False
        decided = decide_steady(
            fleet.deployment,
            waiting=gateway.waiting,
            running=gateway.running,
            last_request=last_request(gateway),
            now=now + START,
            counts=lambda: counts(fleet, gateway, now),
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

    def _plan_next(self, now: float, at: float) -> None:
        self._plan_due = math.inf
        self._plan_at(max(at, now + 0.001))

    def _scale(self, now: float) -> None:
        """The other policy decides, as an HPA does: it writes spec.scaling.replicas."""
        scaler, fleet, gateway = self._scaler, self._fleet, self._gateway
        if scaler is None:
            return
        seen = Seen(
            now=now,
            waiting=gateway.waiting,
            running=gateway.running,
            replicas=fleet.deployment.scaling.replicas or 0,
            ready=len(gateway.ready),
            starting=sum(w.seen.is_serving and not w.is_ready for w in fleet.workers.values()),
            busy_seconds=sum(w.engine.busy_until(now) for w in gateway.ready),
        )
        replicas, part = scaler.decide(seen)
        self._decided_by = part
        if replicas != seen.replicas:
            self._set_replicas(replicas)
            self._plan_at(now)
        self._call_at(now + scaler.interval, self._scale)

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

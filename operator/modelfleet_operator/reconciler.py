"""One task per deployment: observes, decides, writes. Without events it runs ever more rarely."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Protocol

import structlog

from .claims import Claims
from .decisions.actions import Action
from .decisions.memory import Memory
from .decisions.observed import Observed, Signals
from .decisions.plan import Plan, make_plan
from .decisions.status import Status
from .decisions.view import ModelView
from .decisions.wake import TICK, next_tick
from .errors import PassingError
from .explain.snapshot import Snapshot, installed_version
from .metrics import Metrics

AT_ONCE = 64  # reconciles that run at the same time; more would only wait for connections
FIRST_RETRY, LONGEST_RETRY = 0.5, 30.0  # seconds after an error
RESTART_DELAY = 5.0  # seconds until a task that failed is started again

log = structlog.get_logger()


class Body(Protocol):
    """What decisions act through: a cluster's API, or the processes of one machine.

    Methods raise `PassingError` for what may work when tried again; the reconciler asks again with
    back-off. Any other exception ends the deployment's task, and its owner logs and restarts it.
    """

    def keys(self) -> Collection[str]:
        """`namespace/name` of every deployment that exists (and is not being deleted)."""
        ...

    def observe(self, key: str) -> Observed | None:
        """From caches, without waiting. None: it is gone."""
        ...

    async def recall(self, key: str) -> tuple[Memory, Status | None]:
        """What `write_status` kept last; called once, before a deployment is reconciled first."""
        ...

    async def carry_out(self, action: Action, seen: Observed) -> None:
        """Idempotent: caches lag, so the same action may come again."""
        ...

    async def write_status(self, seen: Observed, status: Status, memory: Memory) -> float | None:
        """Called after every reconcile, with the same values too: writes only what differs.

        Conditions and replica counts at once, other numbers at most every 10 s (see
        `decisions.rendering.is_due`), memory when its `dump` changed. Wakes no reconciler. Returns
        when (Unix seconds) to call it again for what was held back; None: nothing was.
        """
        ...


class Gateways(Protocol):
    """The Fleet service, as reconcilers use it."""

    def signals(self, model: str) -> Signals:
        """What the connected gateways say about a model now."""
        ...

    def publish(self, view: ModelView) -> None:
        """Puts a model into the view; gateways hear of it if it changed."""
        ...

    def withdraw(self, model: str) -> None:
        """Takes a model out of the view."""
        ...


class Reconcilers:
    """Owns the task of every deployment. `wake` may be called at any time, from the event loop."""

    def __init__(
        self,
        body: Body,
        gateways: Gateways,
        clock: Callable[[], float],
        watch: Callable[[Observed, Plan], None] = lambda seen, plan: None,
        metrics: Metrics | None = None,
    ) -> None:
        """`clock` gives Unix seconds; `watch` gets every plan before it is carried out."""
        self._body = body
        self._gateways = gateways
        self._clock = clock
        self._watch = watch
        self._metrics = metrics or Metrics()
        self._metrics.collect_plans(lambda: self._plans, self._count_woken)
        self._events: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._plans: dict[str, Plan] = {}  # the latest of each
        self._claims = Claims()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._is_running = False

    def names_of_deleted(self) -> str:
        """For the next leader, which could read it nowhere else; empty: there are none."""
        return self._claims.dump_deleted(self._clock())

    def inherit_names(self, dumped: str) -> None:
        """What `names_of_deleted` of the leader before was."""
        if not self._claims.load_deleted(dumped, self._clock()):
            log.warning("the names of deleted deployments cannot be read: they are free now")

    async def run(self) -> None:
        """Reconciles until cancelled; then every task has ended."""
        self._is_running = True
        try:
            while True:
                for key in sorted(set(self._body.keys()) - self._tasks.keys()):
                    self.wake(key)
                await asyncio.sleep(TICK)
        finally:
            self._is_running = False
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # each logged its own error

    def wake(self, key: str) -> None:
        """Something happened to this deployment: reconcile it now, also if the key is new."""
        if not self._is_running:
            return
        self._events.setdefault(key, asyncio.Event()).set()
        if key not in self._tasks:
            task = asyncio.create_task(self._reconcile_until_gone(key), name=f"reconcile {key}")
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))

    def snapshot(self, key: str) -> Snapshot | str:
        """What decisions would see of this deployment now; or, in a sentence, why nothing."""
        if not self._is_running:
            return "This replica of the operator stands by: ask the one that holds the Lease."
        seen, plan = self._observe(key), self._plans.get(key)
        if seen is None:
            return f"There is no ModelDeployment {key}."
        if plan is None:
            return f"{key} was not reconciled yet: ask again in a moment."
        return Snapshot(
            modelfleet=installed_version(),
            now=self._clock(),
            observed=seen,
            signals=self._gateways.signals(key),
            memory=plan.memory.without_ranking(),
            status=plan.status,
        )

    def wake_all(self) -> None:
        """Something happened that may concern every deployment."""
        for key in sorted({*self._body.keys(), *self._tasks}):
            self.wake(key)

    def _ended(self, key: str, task: asyncio.Task[None]) -> None:
        del self._tasks[key]
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._metrics.reconcile_errors.inc()
            log.error("reconciling failed and starts again", model=key, exc_info=error)
            asyncio.get_running_loop().call_later(RESTART_DELAY, self.wake, key)
        elif self._body.observe(key) is not None:
            self.wake(key)  # it came back while its task was ending
        else:
            del self._events[key]

    async def _reconcile_until_gone(self, key: str) -> None:
        event = self._events[key]
        remembered: tuple[Memory, Status | None] | None = None
        errors = 0
        tick = TICK
        while True:
            try:
                async with self._slots:
                    was_woken = event.is_set()
                    event.clear()  # before anything is read: what happens from here wakes it again
                    seen = self._observe(key)
                    if seen is None:
                        break
                    with self._metrics.reconcile_duration.time():
                        self._wake_rivals(seen)
                        if remembered is None:
                            remembered = await self._body.recall(key)
                        plan = self._decide(seen, *remembered)
                        remembered = plan.memory, plan.status
                        held_back = await self._carry_out(seen, plan)
            except PassingError as error:
                delay = min(FIRST_RETRY * 2.0 ** min(errors, 30), LONGEST_RETRY)
                errors += 1
                self._metrics.reconcile_errors.inc()
                log.warning("tried again soon", model=key, error=str(error), seconds=delay)
                await asyncio.sleep(delay)
                continue
            errors = 0
            tick = next_tick(
                tick, was_woken=was_woken, acted=bool(plan.actions), status=plan.status
            )
            await self._sleep(event, tick, plan.wake_at, held_back)
        self._forget(key)

    def _observe(self, key: str) -> Observed | None:
        seen = self._body.observe(key)
        if seen is None:
            return None
        names = seen.deployment.served_names
        owners = self._claims.settled(seen.owners, names, self._clock())
        return seen if owners is seen.owners else replace(seen, owners=owners)

    def _decide(self, seen: Observed, memory: Memory, status: Status | None) -> Plan:
        key = seen.deployment.key
        plan = make_plan(seen, self._gateways.signals(key), self._clock(), memory, status)
        self._plans[key] = plan
        for action in plan.actions:
            self._metrics.decided(action)
        self._watch(seen, plan)
        if log.is_enabled_for(logging.DEBUG):
            _explain(key, plan, status)
        self._claims.note_owned(key, plan.view.served_names)
        self._gateways.publish(plan.view)
        return plan

    async def _carry_out(self, seen: Observed, plan: Plan) -> float | None:
        # Memory first: if the operator ends between the two, its successor goes on with the plan.
        # The other way round it would find workers that it never decided to have.
        held_back = await self._body.write_status(seen, plan.status, plan.memory)
        for action in plan.actions:
            await self._body.carry_out(action, seen)
        return held_back

    async def _sleep(self, event: asyncio.Event, tick: float, *alarms: float | None) -> None:
        # Random, so that a thousand deployments that began together do not reconcile together.
        delay = tick * random.uniform(0.75, 1.0)
        now = self._clock()
        for alarm in alarms:
            if alarm is not None:
                delay = min(delay, max(alarm - now, 0.001))
        # Not wait_for: up to Python 3.11 it swallows a cancellation that races with the event, and
        # a task that cannot be cancelled keeps the operator from ending.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await event.wait()

    def _wake_rivals(self, seen: Observed) -> None:
        """Wakes the deployments that share a short name, since its owner may have changed."""
        deployment = seen.deployment
        for key in self._claims.put(deployment.key, deployment.created, deployment.served_names):
            self.wake(key)

    def _forget(self, key: str) -> None:
        self._gateways.withdraw(key)
        self._plans.pop(key, None)
        self._claims.note_deleted(key, self._clock())
        for other in self._claims.drop(key):
            self.wake(other)

    def _count_woken(self) -> int:
        return sum(event.is_set() for event in self._events.values())


def _explain(key: str, plan: Plan, before: Status | None) -> None:
    """Debug lines: why each action, and each condition that differs from the plan before."""
    for action in plan.actions:
        log.debug(f"plan: {type(action).__name__.lower()}", model=key, reason=action.reason)
    known = {(c.type, c.status, c.reason) for c in before.conditions} if before else set()
    for condition in plan.status.conditions:
        if (condition.type, condition.status, condition.reason) not in known:
            log.debug(
                f"plan: {condition.type} is {condition.status}",
                model=key,
                reason=condition.reason,
                message=condition.message,
            )

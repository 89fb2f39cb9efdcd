"""One task per deployment: reads, decides, writes. Woken by events, ticked slowly."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from typing import Protocol

import structlog

from .decisions.actions import Action
from .decisions.memory import Memory
from .decisions.observed import Observed, Signals
from .decisions.plan import Plan, Route, make_plan
from .decisions.status import Status
from .errors import PassingError

TICK = 10.0  # seconds: an event that was missed heals itself this soon
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
        """What `write_status` kept last; called once, before the first look at a deployment."""
        ...

    async def carry_out(self, action: Action, seen: Observed) -> None:
        """Idempotent: caches lag, so the same action may come again."""
        ...

    async def write_status(self, seen: Observed, status: Status, memory: Memory) -> None:
        """Called after every look, with the same values too: writes only what differs.

        Conditions and replica counts at once, other numbers at most every 10 s (see
        `decisions.rendering.is_due`), memory when its `dump` changed. Wakes nobody.
        """
        ...


class Gateways(Protocol):
    """The Fleet service, as reconcilers use it."""

    def signals(self, model: str) -> Signals:
        """What the connected gateways say about a model now."""
        ...

    def publish(self, route: Route) -> None:
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
    ) -> None:
        """`clock` gives Unix seconds; `watch` is told of every plan before it is carried out."""
        self._body = body
        self._gateways = gateways
        self._clock = clock
        self._watch = watch
        self._events: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._names: dict[str, tuple[tuple[str, ...], float]] = {}
        self._is_running = False

    async def run(self) -> None:
        """Reconciles until cancelled; then every task has ended."""
        self._is_running = True
        try:
            while True:
                self.wake_all()
                await asyncio.sleep(TICK)
        finally:
            self._is_running = False
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # each logged its own error

    def wake(self, key: str) -> None:
        """Something happened to this deployment: look at it now. Unknown keys are looked up."""
        if not self._is_running:
            return
        self._events.setdefault(key, asyncio.Event()).set()
        if key not in self._tasks:
            task = asyncio.create_task(self._reconcile_until_gone(key), name=f"reconcile {key}")
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))

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
            log.error("reconciling failed and starts again", model=key, exc_info=error)
            asyncio.get_running_loop().call_later(RESTART_DELAY, self.wake, key)
        elif self._body.observe(key) is not None:
            self.wake(key)  # it came back while its task was ending

    async def _reconcile_until_gone(self, key: str) -> None:
        event = self._events[key]
        remembered: tuple[Memory, Status | None] | None = None
        errors = 0
        while (seen := self._body.observe(key)) is not None:
            event.clear()  # before anything is read: what happens from here on wakes it again
            self._tell_others(seen)
            try:
                if remembered is None:
                    remembered = await self._body.recall(key)
                plan = self._decide(seen, *remembered)
                remembered = plan.memory, plan.status
                await self._carry_out(seen, plan)
            except PassingError as error:
                delay = min(FIRST_RETRY * 2.0 ** min(errors, 30), LONGEST_RETRY)
                errors += 1
                log.warning("tried again soon", model=key, error=str(error), seconds=delay)
                await asyncio.sleep(delay)
                continue
            errors = 0
            await self._sleep(event, plan.wake_at)
        self._forget(key)

    def _decide(self, seen: Observed, memory: Memory, status: Status | None) -> Plan:
        signals = self._gateways.signals(seen.deployment.key)
        plan = make_plan(seen, signals, self._clock(), memory, status)
        self._watch(seen, plan)
        self._gateways.publish(plan.route)
        return plan

    async def _carry_out(self, seen: Observed, plan: Plan) -> None:
        # Memory first: an operator that dies between the two leaves a successor that goes on with
        # the plan. The other way round it would find workers that it never decided to have.
        await self._body.write_status(seen, plan.status, plan.memory)
        for action in plan.actions:
            await self._body.carry_out(action, seen)

    async def _sleep(self, event: asyncio.Event, wake_at: float | None) -> None:
        delay = TICK if wake_at is None else min(max(wake_at - self._clock(), 0.001), TICK)
        # Not wait_for: up to Python 3.11 it swallows a cancellation that races with the event, and
        # a task that nothing can end keeps the operator from ending.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await event.wait()

    def _tell_others(self, seen: Observed) -> None:
        """Short names pass from one deployment to another when their owner changes."""
        deployment = seen.deployment
        asked = deployment.served_names, deployment.created
        if self._names.get(deployment.key) != asked:
            self._names[deployment.key] = asked
            self.wake_all()

    def _forget(self, key: str) -> None:
        self._gateways.withdraw(key)
        self._names.pop(key, None)
        self.wake_all()

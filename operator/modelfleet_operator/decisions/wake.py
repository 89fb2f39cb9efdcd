"""When time alone may change the plan, so that the deployment is reconciled without an event."""

from __future__ import annotations

from collections.abc import Iterator

from .cold_start import deadline_of
from .draining import SETTLE
from .notices import find_moments
from .observed import LOST_AFTER
from .plan_context import PlanContext
from .prices import next_price_change
from .protection import find_quiet_moment
from .relocation import SETTLED
from .status import Status
from .worker_groups import LOST_NODE_TIMEOUT, UNASKED_DRAIN_TIMEOUT, UNHEALTHY_TIMEOUT

TICK = 10.0  # seconds: an event that was missed heals itself this soon after the last one
DRAIN_PAUSE = 1.0  # seconds between two workers that go because the load fell
LONGEST_TICK = 300.0  # seconds; each tick that changes nothing doubles the pause before the next


def next_tick(tick: float, *, was_woken: bool, acted: bool, status: Status) -> float:
    """Seconds until the next reconcile without an event or a moment that the plan named.

    Quiet: it was not woken, did nothing, and nothing waits or runs -> twice as long as before.
    Else 10 s: the memory of the last request and of the peak must stay up to date.
    """
    queue = status.queue
    is_busy = queue is not None and queue.waiting + queue.running > 0
    return TICK if was_woken or acted or is_busy else min(tick * 2, LONGEST_TICK)


def next_wake(context: PlanContext) -> tuple[float, str] | None:
    """The earliest moment after now (Unix seconds) and what is waited for; None: for nothing.

    It is 1000; the idle timeout is over at 1060, a start may be tried again at 1008 -> (1008, "the
    next start of revision a").
    """
    coming = [(at, what) for at, what in _waits(context) if at > context.now]
    return min(coming, default=None)


def _waits(context: PlanContext) -> Iterator[tuple[float, str]]:
    """May yield moments that are past."""
    changes, groups = context.changes, context.groups
    if context.target.wake_at is not None:
        yield context.target.wake_at, "the autoscaler's delay or idle timeout"
    yield from _placement_waits(context)
    if changes.start_new:
        yield changes.start_new_at, f"the next start of revision {context.revision}"
    if changes.start_old:
        yield changes.start_old_at, f"the next start of revision {changes.start_old[0][0]}"
    yield deadline_of(context.seen.deployment, context.memory), "the deadline of the cold start"
    if changes.drain and len(groups.current) > changes.rollout.new:
        yield context.now + DRAIN_PAUSE, "the next worker that is not needed"
    for worker in groups.serving:
        if worker.problem is not None:
            what = f"the {worker.problem.reason} of {worker.name}"
            yield worker.problem.shown_at, what
            yield worker.problem.stalled_at, what
            yield worker.problem.since + LOST_NODE_TIMEOUT, what
    for since in groups.unhealthy.values():
        yield since + UNASKED_DRAIN_TIMEOUT, "who asked a worker to drain"
        yield since + UNHEALTHY_TIMEOUT, "an unhealthy worker's recovery"
    for worker in groups.draining:
        drained_at = worker.draining_since or 0.0
        yield drained_at + SETTLE, f"newer Stats of {worker.name}, which drains"
        yield (
            drained_at + context.seen.deployment.drain_timeout,
            f"the drain timeout of {worker.name}",
        )
    yield from find_moments(context)
    yield from find_quiet_moment(context)
    for worker in (*groups.draining, *groups.stopping):
        if worker.gone_by is not None:
            yield worker.gone_by + LOST_AFTER, f"the end of {worker.name}"


def _placement_waits(context: PlanContext) -> Iterator[tuple[float, str]]:
    if context.placement.wake_at is not None:
        yield context.placement.wake_at, "the placement's fallback or retry"
    if (changed_at := next_price_change(context.seen, context.now)) is not None:
        yield changed_at, "another price of an accelerator class"
    choice = context.choice
    if choice is None or choice.best is None:
        return
    if choice.ends_at is not None:
        yield choice.ends_at, "the end of what the choice of a class stands"
    if any(w.accelerator != context.placement.accelerator for w in context.groups.current):
        yield choice.since + SETTLED, "running workers that follow the choice of a class"

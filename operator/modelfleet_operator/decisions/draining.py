"""When a draining worker may be stopped: first no gateway routes to it, then nothing runs on it."""

from __future__ import annotations

from .actions import Stop
from .memory import Memory
from .observed import Signals, Worker
from .plan_context import PlanContext
from .worker_groups import UNHEALTHY_TIMEOUT

HAND_OVER_TIME = 5.0  # seconds in which gateways move the streams of one with a notice
SETTLE = 1.0  # seconds after which a worker's Stats are newer than its Unroute


def is_idle(worker: Worker, signals: Signals, memory: Memory) -> bool:
    """Whether nothing can run on it, so that there is nothing to wait for."""
    never_served = worker.uid not in memory.was_ready and not signals.gateways
    return never_served or signals.is_idle(worker.id)


def stop_drained(context: PlanContext) -> list[Stop]:
    """Draining workers on which nothing runs any more, or that had their time.

    tiny-a-0 drains for 10 s, no gateway reaches it, it has 0 requests -> Stop; with 1 request -> it
    goes on; with 1 request after the drain timeout, while another ready one serves -> Stop.
    """
    return [
        Stop(worker, why, is_idle(worker, context.signals, context.memory))
        for worker in context.groups.draining
        if worker.draining_since is not None and (why := _why_stop(worker, context))
    ]


def _why_stop(worker: Worker, context: PlanContext) -> str:
    """Empty: what runs on it goes on.

    Only one of the current revision has a deadline: others like it can take over what it has.
    A worker of an old revision drains for as long as its requests take.
    """
    signals, now = context.signals, context.now
    waited = now - (worker.draining_since or 0.0)
    if 0 <= waited < SETTLE:  # clocks may step back
        return ""
    if signals.is_idle(worker.id):
        return "nothing runs on it any more"
    unhealthy = context.groups.unhealthy
    if worker.uid in unhealthy and now - unhealthy[worker.uid] >= UNHEALTHY_TIMEOUT:
        return f"no gateway has heard it for {UNHEALTHY_TIMEOUT:g} s"
    timeout = context.seen.deployment.drain_timeout
    if worker.notice is not None:
        timeout += HAND_OVER_TIME
    if 0 <= waited < timeout or worker.revision != context.revision:
        return ""
    if not signals.gateways:
        return f"no gateway has said for {timeout:g} s what runs on it"
    groups = context.groups
    if any(w.revision == worker.revision and w.uid in groups.ready for w in groups.serving):
        return f"it had {timeout:g} s to finish: the rest goes on elsewhere"
    return ""

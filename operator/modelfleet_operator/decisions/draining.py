"""When a worker that leaves may be stopped: first nobody routes to it, then nothing runs on it."""

from __future__ import annotations

from .memory import Memory
from .observed import Observed, Signals, Worker, WorkerState
from .worker_groups import UNWELL_TIMEOUT, WorkerGroups

SETTLE = 1.0  # seconds after which a worker's Stats are newer than its unrouting


def is_idle(worker: Worker, signals: Signals, memory: Memory) -> bool:
    """Whether nothing can run on it, so that there is nothing to wait for."""
    never_served = worker.uid not in memory.was_ready and not signals.gateways
    return never_served or signals.is_idle(worker.id)


def why_stop(
    worker: Worker,
    seen: Observed,
    signals: Signals,
    now: float,
    memory: Memory,
    groups: WorkerGroups,
) -> str:
    """Why an unrouted worker may be stopped now; empty: what runs on it goes on.

    Only one of the current revision has a deadline: others like it can take over what it has.
    A worker of an old revision drains for as long as its requests take.
    """
    if worker.stopping or worker.unrouted_at is None:
        return ""
    waited = now - worker.unrouted_at
    if 0 <= waited < SETTLE:  # clocks may step back
        return ""
    if signals.is_idle(worker.id):
        return "nothing runs on it any more"
    if worker.uid in memory.unwell and now - memory.unwell[worker.uid] >= UNWELL_TIMEOUT:
        return f"no gateway has heard it for {UNWELL_TIMEOUT:g} s"
    timeout = seen.deployment.drain_timeout
    if 0 <= waited < timeout or worker.revision != seen.deployment.revision:
        return ""
    if not signals.gateways:
        return f"no gateway has said for {timeout:g} s what runs on it"
    if any(w.revision == worker.revision and w.uid in groups.ready for w in groups.serving):
        return f"it had {timeout:g} s to finish: the rest goes on elsewhere"
    return ""


def wake_at(worker: Worker, seen: Observed) -> list[float]:
    """When time alone may let an unrouted worker stop, Unix seconds."""
    if worker.stopping or worker.unrouted_at is None:
        return []
    return [worker.unrouted_at + SETTLE, worker.unrouted_at + seen.deployment.drain_timeout]


def can_come_back(worker: Worker, signals: Signals, memory: Memory) -> bool:
    """Whether it only drains, and is as good as a new worker that is ready already."""
    stats = signals.stats.get(worker.id)
    return (
        worker.unrouted_at is not None
        and not worker.stopping
        and worker.failure is None
        and worker.uid not in memory.unwell
        and stats is not None
        and stats.state is WorkerState.READY
    )

"""What the observed workers and signals add to the memory."""

from __future__ import annotations

from dataclasses import replace

from .failures import count_failures
from .memory import Failures, Memory
from .observed import Observed, Signals
from .worker_groups import WorkerGroups


def update_memory(
    memory: Memory, seen: Observed, signals: Signals, now: float, groups: WorkerGroups
) -> Memory:
    """Brings up to date what was ready, what failed, and when a request was last there.

    The first ready worker of a revision makes it the `last_ready_revision`, and idle time counts
    from then. Another revision in the spec begins to count failures at 0.

    Revision b, 2 failures; its worker, created 30 s ago, is ready for the first time -> last ready
    revision b, cold start 30 s, last active now, still 2 failures (they are forgotten later).
    """
    revision = seen.deployment.revision
    is_same = memory.revision == revision
    ready, was_ready = groups.ready, memory.was_ready
    cold_starts = [
        now - w.created for w in groups.current if w.uid in ready and w.uid not in was_ready
    ]
    # Workers of a revision that the spec went back to may have been ready before.
    becomes_ready = memory.last_ready_revision != revision and any(
        w.uid in ready or w.uid in was_ready for w in groups.current
    )
    failures = memory.failures if is_same else Failures()
    old_failures = memory.old_failures if is_same else Failures()
    return replace(
        memory,
        revision=revision,
        last_active=now if becomes_ready else _last_active(memory, signals, now),
        last_ready_revision=revision if becomes_ready else memory.last_ready_revision,
        cold_start_seconds=max(cold_starts, default=memory.cold_start_seconds),
        failures=count_failures(failures, memory, groups, revision, now, old=False),
        old_failures=count_failures(old_failures, memory, groups, revision, now, old=True),
        given_up=memory.given_up if is_same else "",
        unhealthy=groups.unhealthy,
        was_ready=(was_ready | ready) & {w.uid for w in seen.workers},
    )


def _last_active(memory: Memory, signals: Signals, now: float) -> float:
    busy = signals.waiting + signals.running > 0
    latest = now if busy else max(memory.last_active, signals.last_request)
    return min(latest, now)  # clocks of gateways may be ahead

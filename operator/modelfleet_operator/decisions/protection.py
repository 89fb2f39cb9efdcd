"""What node controllers may do to workers: whom to leave alone, and how many may go at once."""

from __future__ import annotations

from collections.abc import Iterator

from .actions import AllowDisruptions, Protect
from .observed import Worker
from .plan_context import PlanContext

QUIET = 60.0  # seconds without a request after which a worker without a peer may be disrupted


def protect_workers(context: PlanContext) -> Iterator[Protect]:
    """A change for each worker that is not protected as it should be; rarely any.

    A worker is protected while it loads, and while requests come and no other is ready. tiny-a-0
    loads -> protected; it is ready and has a ready peer -> not protected.
    """
    for worker in (*context.groups.serving, *context.groups.draining):
        if worker.protected is None:  # this body has no node controllers
            continue
        why = _why_protected(worker, context)
        if bool(why) != worker.protected:
            yield Protect(
                worker, bool(why), why or "it may be disrupted: others serve, or none asks"
            )


def _why_protected(worker: Worker, context: PlanContext) -> str:
    """Empty: it is not."""
    groups, memory, now = context.groups, context.memory, context.now
    deadline = worker.created + context.seen.deployment.cold_start_deadline
    if worker.uid not in memory.was_ready and worker.uid not in groups.ready:
        is_stuck = now >= deadline or worker.notice is not None
        return "" if is_stuck else "it loads"
    if any(w.uid in groups.ready and w.uid != worker.uid for w in groups.serving):
        return ""
    is_busy = context.running(worker) > 0 or now - memory.last_active < QUIET
    return "it serves, and no other is ready" if is_busy else ""


def limit_disruptions(context: PlanContext) -> Iterator[AllowDisruptions]:
    """The budget of the Eviction API, where it differs: one worker at a time, and never the last.

    `kubectl drain` then waits until the cordon of the node has brought a replacement. 3 wanted ->
    2 stay available; 1 wanted -> that one does.
    """
    if not context.seen.keeps_budget:
        return
    wanted = context.target.replicas
    least = 0 if wanted == 0 else max(1, wanted - 1)
    if least != (context.seen.min_available or 0):
        yield AllowDisruptions(least, f"{wanted} workers are wanted")


def find_quiet_moment(context: PlanContext) -> Iterator[tuple[float, str]]:
    """When a protected worker may be disrupted since nothing came for a while."""
    if any(worker.protected for worker in context.groups.serving):
        yield context.memory.last_active + QUIET, "the end of a worker's protection"

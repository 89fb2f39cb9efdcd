"""What a plan does with workers that were told to go: who leaves now, and when streams move on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .interruption import Notice
from .observed import Observed, Worker
from .plan_context import PlanContext
from .rendering import show_time
from .status import Interruption
from .worker_groups import Reasoned

MOST_SHOWN = 16  # interruptions in the status
MOVES_FIRST = 1.0  # seconds that streams get to go on elsewhere before a replacement starts
MARGIN = 5.0  # seconds before its end at which nothing may run on a worker any more


def note_notices(before: Mapping[str, float], seen: Observed, now: float) -> Mapping[str, float]:
    """When the notice of each worker was first seen, by uid; the same mapping while none changes.

    It is kept, so that an operator that restarts does not count 120 s anew.
    """
    noticed = {
        w.uid: min(before.get(w.uid, now), now) for w in seen.workers if w.notice is not None
    }
    return before if noticed == before else noticed


def ends_at(worker: Worker, context: PlanContext) -> float | None:
    """By when it may be gone, Unix seconds; None: nothing says so."""
    if worker.notice is None:
        return worker.gone_by if worker.stopping else None
    end = worker.notice.ends_at(context.memory.noticed.get(worker.uid, context.now))
    known = [at for at in (end, worker.gone_by) if at is not None]
    return min(known, default=None)


def describe(notice: Notice, end: float | None) -> str:
    """`SpotReclaim by 2026-03-02T19:01:45Z (condition PreemptionScheduled)`."""
    by = "" if end is None else f" by {show_time(end)}"
    return f"{notice.kind}{by} ({notice.source})"


def list_interruptions(context: PlanContext) -> tuple[Interruption, ...]:
    """What the status says about workers with a notice, as long as they exist."""
    return tuple(
        Interruption(
            worker=worker.name,
            node=worker.node,
            kind=worker.notice.kind.value,
            source=worker.notice.source,
            deadline=ends_at(worker, context) or 0.0,
        )
        for worker in sorted(context.seen.workers, key=lambda w: w.name)
        if worker.notice is not None and worker.failure is None
    )[:MOST_SHOWN]


def choose_leaves(context: PlanContext) -> list[Reasoned]:
    """Which noticed workers serve no more, and why.

    One whose end is known leaves at once, one without an end when as many others are ready as are
    wanted. The last ready one stays until another is: what it begins can be continued.

    3 ready, 1 of them SpotReclaim in 120 s -> it leaves. 1 ready, SpotReclaim in 30 s -> it stays
    until its replacement is ready. 2 wanted, 2 ready, 1 of them cordoned -> it stays likewise.
    """
    groups = context.groups
    ready = len(groups.ready) - sum(w.uid in groups.ready for w in groups.leaving)
    wanted = context.target.replicas
    leaves = []
    for worker in groups.leaving:
        end = ends_at(worker, context)
        if ready >= wanted or (ready > 0 and end is not None):
            why = context.returning
            if worker.notice is not None:
                why = f"{describe(worker.notice, end)}, and others serve"
            leaves.append((worker, why))
    return leaves


def most_replacements(context: PlanContext) -> int:
    """How many workers may start while others are told to go; without those as many as wanted.

    Pods that tolerate what a node says come back to it and are told to go again, for ever. 1
    wanted, 5 exist that were told to go -> none.
    """
    told = sum(w.notice is not None and w.failure is None for w in context.seen.workers)
    wanted = context.target.replicas
    return max(3 * wanted + 2 - told, 0) if told else wanted


def replacements_at(context: PlanContext) -> float:
    """When replacements may start, Unix seconds: streams that move at once do so first.

    A start takes what the others compute them with, where all is on one machine. 2 ready, one of
    them told at 100 that it has 15 s -> 101. None other ready -> at once.
    """
    groups = context.groups
    if not any(w.uid in groups.ready and w.notice is None for w in groups.serving):
        return 0.0
    moving = [
        context.memory.noticed.get(worker.uid, context.now)
        for worker in (*groups.leaving, *groups.draining)
        if worker.notice is not None and hands_over(worker, context)
    ]
    return max(moving) + MOVES_FIRST if moving else 0.0


def nodes_that_go(context: PlanContext) -> tuple[str, ...]:
    """Nodes of workers that were told to go: not each of them keeps new pods away by itself."""
    told = {w.node for w in context.seen.workers if w.notice is not None and w.node}
    return tuple(sorted(told)[:MOST_SHOWN])


def hand_over_at(worker: Worker, context: PlanContext) -> float | None:
    """When what still runs on it goes on elsewhere, Unix seconds; None: it finishes there.

    Where the end leaves less than the drain timeout, most would have to move anyway, and a notice
    often comes late: at once. Else when the drain timeout is over, or shortly before the end.
    """
    end, timeout = ends_at(worker, context), context.seen.deployment.drain_timeout
    if worker.notice is None:
        # Another client deleted it; the worker itself hands over after its drain timeout.
        return None if end is None else end - MARGIN
    noticed = context.memory.noticed.get(worker.uid, context.now)
    began = noticed if worker.draining_since is None else worker.draining_since
    if end is None:
        return began + timeout
    if end - noticed <= timeout:
        return noticed
    return min(began + timeout, end - MARGIN)


def hands_over(worker: Worker, context: PlanContext) -> bool:
    """Whether gateways should move its streams, each as soon as it can go on elsewhere."""
    if worker.notice is None and not worker.stopping:
        return False
    at = hand_over_at(worker, context)
    return at is not None and context.now >= at


def find_moments(context: PlanContext) -> Iterator[tuple[float, str]]:
    """When time alone changes what happens to a noticed worker; they may be past."""
    groups = context.groups
    for worker in (*groups.leaving, *groups.draining, *groups.stopping):
        if (at := hand_over_at(worker, context)) is not None and (
            worker.notice is not None or worker.stopping
        ):
            yield at, f"the hand-over of {worker.name}"

"""Failures in a row, and how long the next start waits because of them."""

from __future__ import annotations

from dataclasses import replace

from .memory import Failures, Memory
from .observed import Worker
from .reasons import Reason
from .worker_groups import WorkerGroups

FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0  # seconds of back-off; the first failure is replaced at once
STABLE = 60.0  # seconds without a failure, beyond the back-off, after which the count is 0 again
STALLED_AFTER = 3  # failures in a row that a person should hear of
ERROR_LENGTH = 500  # characters of a failure that are kept


def back_off(failures: int) -> float:
    """Seconds to wait after so many failures in a row: 1 -> 0, 2 -> 1, 3 -> 2, 4 -> 4, 9 -> 60."""
    if failures <= 1:
        return 0.0
    return min(FIRST_DELAY * 2.0 ** min(failures - 2, 30), LONGEST_DELAY)


def retry_at(failures: Failures) -> float:
    """When the next worker may be started, Unix seconds."""
    return failures.last_at + back_off(failures.count)


def count_failures(
    before: Failures, memory: Memory, groups: WorkerGroups, revision: str, now: float, *, old: bool
) -> Failures:
    """Of workers of `revision`, or of all other (`old`) ones together.

    2 counted so far, one more worker has exited -> 3 in a row, `last_at` is now. A ready worker and
    60 s without another failure, beyond the back-off -> 0.
    """
    failed = {
        w.uid: (why, reason)
        for w, why, reason in _failed(groups, memory.was_ready)
        if (w.revision != revision) is old
    }
    if not failed and not before.count and not before.counted:
        return before
    new = [failure for uid, failure in failed.items() if uid not in before.counted]
    # A worker that is being stopped stays counted until it is gone.
    leaves = {w.uid for w in (*groups.draining, *groups.stopping)}
    counted = frozenset(failed) | (before.counted & leaves)
    if new:
        return Failures(
            count=before.count + len(new),
            last_at=now,
            error=new[-1][0][:ERROR_LENGTH],
            reason=new[-1][1],
            counted=counted,
        )
    is_stable = now - retry_at(before) >= STABLE
    is_ready = any(w.uid in groups.ready for w in (groups.old if old else groups.current))
    if before.count and is_ready and is_stable:
        return Failures(counted=counted)
    return before if counted == before.counted else replace(before, counted=counted)


def _failed(groups: WorkerGroups, was_ready: frozenset[str]) -> list[tuple[Worker, str, Reason]]:
    """Each exited and failed worker, with what it said and the reason for conditions."""
    exited = [(w, w.failure or "", w.failure_reason) for w in groups.exited]
    return exited + [(w, why, _reason(w, was_ready)) for w, why in groups.failed]


def _reason(worker: Worker, was_ready: frozenset[str]) -> Reason:
    if worker.problem is not None and worker.problem.reason is Reason.NODE_LOST:
        return Reason.NODE_LOST
    return Reason.WORKER_FAILED if worker.uid in was_ready else Reason.LOAD_FAILED

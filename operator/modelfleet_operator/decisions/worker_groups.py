"""Who is there and how they are: the observed workers sorted, and what must be remembered of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from .memory import Failures, Memory
from .observed import Observed, Signals, Worker, WorkerState
from .reasons import Reason

UNWELL_TIMEOUT = 30.0  # seconds that a worker which was ready may fail or be unreachable
LOST_NODE_TIMEOUT = 40.0  # seconds of NodeLost before a worker that never ran is placed anew
FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0  # seconds of back-off; the first failure is replaced at once
STABLE = 60.0  # seconds without a failure, beyond the back-off, after which failures are forgotten
ERROR_LENGTH = 500  # characters of a failure that are kept


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerGroups:
    """The workers of one deployment; each is in exactly one of the first six."""

    current: tuple[Worker, ...]  # of the revision that the spec asks for
    old: tuple[Worker, ...]  # of other revisions
    failing: tuple[tuple[Worker, str], ...]  # to be ended, and why
    leaving: tuple[Worker, ...]  # unrouted or stopping
    lost: tuple[Worker, ...]  # stopping on a node that is gone: they hold nothing but their names
    dead: tuple[Worker, ...]
    ready: frozenset[str]  # uids: every connected gateway can route to it

    @property
    def serving(self) -> tuple[Worker, ...]:
        """Those that gateways may route to."""
        return (*self.current, *self.old)

    @property
    def ready_current(self) -> int:
        """Ready workers of the revision that the spec asks for."""
        return sum(worker.uid in self.ready for worker in self.current)

    def with_back(self, workers: Collection[Worker], revision: str) -> WorkerGroups:
        """As it will be when these, which drain, serve again."""
        uids = {worker.uid for worker in workers}
        return replace(
            self,
            current=(*self.current, *(w for w in workers if w.revision == revision)),
            old=(*self.old, *(w for w in workers if w.revision != revision)),
            leaving=tuple(w for w in self.leaving if w.uid not in uids),
        )

    def without(self, uids: Collection[str]) -> WorkerGroups:
        """As it will be when these serve no more."""
        return replace(
            self,
            current=tuple(w for w in self.current if w.uid not in uids),
            old=tuple(w for w in self.old if w.uid not in uids),
            ready=self.ready.difference(uids),
        )


def back_off(failures: int) -> float:
    """Seconds to wait after so many failures in a row before the next start."""
    if failures <= 1:
        return 0.0
    return min(FIRST_DELAY * 2.0 ** min(failures - 2, 30), LONGEST_DELAY)


def retry_at(failures: Failures) -> float:
    """When the next worker may be started, Unix seconds."""
    return failures.last_at + back_off(failures.count)


def group_workers(
    seen: Observed, signals: Signals, now: float, memory: Memory
) -> tuple[WorkerGroups, Memory]:
    """Sorts the workers and brings `proven`, `failures` and what is known of each up to date."""
    revision = seen.deployment.revision
    if memory.revision != revision:
        memory = replace(
            memory, revision=revision, failures=Failures(), old_failures=Failures(), given_up=""
        )
    memory = _remember_activity(memory, signals, now)

    ready = frozenset(w.uid for w in seen.workers if _is_serving(w) and signals.is_ready(w.id))
    unwell = _unwell(seen, signals, now, memory)
    failing = tuple(
        (worker, why)
        for worker in seen.workers
        if _is_serving(worker) and (why := _why_end(worker, signals, now, memory, unwell))
    )
    ending = {worker.uid for worker, _ in failing}
    alive = [w for w in seen.workers if _is_serving(w) and w.uid not in ending]
    groups = WorkerGroups(
        current=tuple(w for w in alive if w.revision == revision),
        old=tuple(w for w in alive if w.revision != revision),
        failing=failing,
        leaving=tuple(
            w
            for w in seen.workers
            if w.failure is None
            and (w.stopping or w.unrouted_at is not None)
            and not w.is_lost(now)
        ),
        lost=tuple(w for w in seen.workers if w.failure is None and w.is_lost(now)),
        dead=tuple(w for w in seen.workers if w.failure is not None),
        ready=ready - ending,
    )
    memory = _remember_ready(memory, groups, now)
    memory = replace(
        memory,
        unwell=unwell,
        was_ready=(memory.was_ready | ready) & {w.uid for w in seen.workers},
        failures=_count_failures(memory, groups, now, old=False),
        old_failures=_count_failures(memory, groups, now, old=True),
    )
    return groups, memory


def _is_serving(worker: Worker) -> bool:
    return worker.failure is None and not worker.stopping and worker.unrouted_at is None


def _remember_activity(memory: Memory, signals: Signals, now: float) -> Memory:
    busy = signals.waiting + signals.running > 0
    latest = now if busy else max(memory.last_active, signals.last_request)
    return replace(memory, last_active=min(latest, now))  # clocks of gateways may be ahead


def _unwell(seen: Observed, signals: Signals, now: float, memory: Memory) -> dict[str, float]:
    """Workers that were ready and are not now; only as long as somebody can say so."""
    if not signals.complete:
        return {}
    return {
        w.uid: min(memory.unwell.get(w.uid, now), now)
        for w in seen.workers
        if w.uid in memory.was_ready
        and (_is_cut_off(w, signals) or _failed(w, signals))
        and w.failure is None
        and not w.stopping
    }


def _is_cut_off(worker: Worker, signals: Signals) -> bool:
    """Nobody routes to one that drains, so for it hearing of it is enough."""
    if worker.unrouted_at is not None:
        return not signals.hears(worker.id)
    return signals.reach(worker.id) == "none"


def _failed(worker: Worker, signals: Signals) -> bool:
    stats = signals.stats.get(worker.id)
    return stats is not None and stats.state is WorkerState.FAILED


def _why_end(
    worker: Worker, signals: Signals, now: float, memory: Memory, unwell: dict[str, float]
) -> str:
    """The reason to replace a worker whose process still runs; empty: there is none."""
    message = signals.stats[worker.id].message if _failed(worker, signals) else ""
    if _failed(worker, signals) and worker.uid not in memory.was_ready:
        return message or "loading failed"
    if _never_reached_its_node(worker, now):
        return "the node that it was placed on does not answer"
    if worker.uid in unwell and now - unwell[worker.uid] >= UNWELL_TIMEOUT:
        return message or f"no gateway has reached it for {UNWELL_TIMEOUT:g} s"
    return ""


def _never_reached_its_node(worker: Worker, now: float) -> bool:
    """A scheduler that had not heard of the node's death yet placed it there: nothing runs."""
    problem = worker.problem
    return (
        problem is not None
        and problem.reason is Reason.NODE_LOST
        and not worker.address
        and now - problem.since >= LOST_NODE_TIMEOUT
    )


def _remember_ready(memory: Memory, groups: WorkerGroups, now: float) -> Memory:
    """The first ready worker proves its revision, and idle time counts from then."""
    risen = [w for w in groups.current if w.uid in groups.ready - memory.was_ready]
    if risen:
        memory = replace(memory, cold_start_seconds=max(now - w.created for w in risen))
    # Workers of a revision that the spec went back to have proven it already.
    if memory.proven != memory.revision and any(
        w.uid in groups.ready | memory.was_ready for w in groups.current
    ):
        memory = replace(memory, proven=memory.revision, last_active=now)
    return memory


def _reason_to_end(worker: Worker, was_ready: frozenset[str]) -> Reason:
    if worker.problem is not None and worker.problem.reason is Reason.NODE_LOST:
        return Reason.NODE_LOST
    return Reason.WORKER_FAILED if worker.uid in was_ready else Reason.LOAD_FAILED


def _count_failures(memory: Memory, groups: WorkerGroups, now: float, *, old: bool) -> Failures:
    """Of the current revision, or of all `old` ones together."""
    failures = memory.old_failures if old else memory.failures

    def counts(worker: Worker) -> bool:
        return (worker.revision != memory.revision) is old

    there = {
        **{w.uid: (w.failure or "", w.failure_reason) for w in groups.dead if counts(w)},
        **{
            w.uid: (why, _reason_to_end(w, memory.was_ready))
            for w, why in groups.failing
            if counts(w)
        },
    }
    new = [failure for uid, failure in there.items() if uid not in failures.counted]
    # One that is being ended stays counted until it is gone.
    leaving = {w.uid for w in groups.leaving}
    counted = frozenset(there) | (failures.counted & leaving)
    if new:
        return Failures(
            count=failures.count + len(new),
            last_at=now,
            error=new[-1][0][:ERROR_LENGTH],
            reason=new[-1][1],
            counted=counted,
        )
    quiet = now - retry_at(failures) >= STABLE
    ready = any(w.uid in groups.ready for w in (groups.old if old else groups.current))
    if failures.count and ready and quiet:
        return Failures(counted=counted)
    return replace(failures, counted=counted)

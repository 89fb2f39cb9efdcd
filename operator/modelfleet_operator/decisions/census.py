"""Who is there and how they are: the observed workers sorted, and what must be remembered of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .memory import Failures, Memory
from .observed import Observed, Signals, Worker, WorkerState

UNWELL_TIMEOUT = 30.0  # seconds that a worker which was ready may fail or be unreachable
FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0  # seconds of back-off; the first failure is replaced at once
STABLE = 60.0  # seconds without a failure, beyond the back-off, after which failures are forgotten
ERROR_LENGTH = 500  # characters of a failure that are kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """The workers of one deployment; each is in exactly one of the first five."""

    current: tuple[Worker, ...]  # of the revision that the spec asks for
    old: tuple[Worker, ...]  # of other revisions
    failing: tuple[tuple[Worker, str], ...]  # to be ended, and why
    leaving: tuple[Worker, ...]  # unrouted or stopping
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


def back_off(failures: int) -> float:
    """Seconds to wait after so many failures in a row before the next start."""
    if failures <= 1:
        return 0.0
    return min(FIRST_DELAY * 2.0 ** min(failures - 2, 30), LONGEST_DELAY)


def retry_at(failures: Failures) -> float:
    """When the next worker may be started, Unix seconds."""
    return failures.last_at + back_off(failures.count)


def take_census(
    seen: Observed, signals: Signals, now: float, memory: Memory
) -> tuple[Census, Memory]:
    """Sorts the workers and brings `proven`, `failures` and what is known of each up to date."""
    revision = seen.deployment.revision
    if memory.revision != revision:
        memory = replace(memory, revision=revision, failures=Failures())
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
    census = Census(
        current=tuple(w for w in alive if w.revision == revision),
        old=tuple(w for w in alive if w.revision != revision),
        failing=failing,
        leaving=tuple(
            w
            for w in seen.workers
            if w.failure is None and (w.stopping or w.unrouted_at is not None)
        ),
        dead=tuple(w for w in seen.workers if w.failure is not None),
        ready=ready - ending,
    )
    memory = _remember_ready(memory, census, now)
    memory = replace(
        memory,
        unwell=unwell,
        was_ready=(memory.was_ready | ready) & {w.uid for w in seen.workers},
        failures=_count_failures(memory.failures, census, revision, now),
    )
    return census, memory


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
        if _is_serving(w)
        and w.uid in memory.was_ready
        and (signals.reach(w.id) == "none" or _failed(w, signals))
    }


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
    if worker.uid in unwell and now - unwell[worker.uid] >= UNWELL_TIMEOUT:
        return message or f"no gateway has reached it for {UNWELL_TIMEOUT:g} s"
    return ""


def _remember_ready(memory: Memory, census: Census, now: float) -> Memory:
    """The first ready worker proves its revision, and idle time counts from then."""
    risen = [w for w in census.current if w.uid in census.ready - memory.was_ready]
    if not risen:
        return memory
    memory = replace(memory, cold_start_seconds=max(now - w.created for w in risen))
    if memory.proven == memory.revision:
        return memory
    return replace(memory, proven=memory.revision, last_active=now)


def _count_failures(failures: Failures, census: Census, revision: str, now: float) -> Failures:
    there = {
        **{w.uid: w.failure or "" for w in census.dead if w.revision == revision},
        **{w.uid: why for w, why in census.failing if w.revision == revision},
    }
    new = [error for uid, error in there.items() if uid not in failures.counted]
    # One that is being ended stays counted until it is gone.
    leaving = {w.uid for w in census.leaving}
    counted = frozenset(there) | (failures.counted & leaving)
    if new:
        return Failures(
            count=failures.count + len(new),
            last_at=now,
            error=new[-1][:ERROR_LENGTH],
            counted=counted,
        )
    quiet = now - retry_at(failures) >= STABLE
    if failures.count and census.ready_current and quiet:
        return Failures(counted=counted)
    return replace(failures, counted=counted)

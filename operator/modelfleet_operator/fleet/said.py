"""What a gateway's messages say, in bounds: a gateway may be broken, or none at all."""

from __future__ import annotations

import math
from dataclasses import dataclass

from modelfleet_proto import fleet_pb2, worker_pb2

from ..decisions.latency import Judged
from ..decisions.model_memory import MemoryUse
from ..decisions.observed import WorkerState, WorkerStats
from ..decisions.worker_speed import Work

MOST_SLOTS = 4096  # of a worker: spec.engine.maxSequences
MOST_CHOICES = 128  # of one request, which an empty queue takes whatever its limit is
LONGEST_TEXT = 1000  # characters of what a worker says of itself
MOST_PHASES = 20  # of a load
MOST_REVISIONS = 100  # that streams wait for
LONGEST_REVISION = 100  # characters
MOST_BYTES = 1 << 50  # of memory

_STATES = {
    worker_pb2.WORKER_STATE_STANDBY: WorkerState.STANDBY,
    worker_pb2.WORKER_STATE_LOADING: WorkerState.LOADING,
    worker_pb2.WORKER_STATE_READY: WorkerState.READY,
    worker_pb2.WORKER_STATE_DRAINING: WorkerState.DRAINING,
    worker_pb2.WORKER_STATE_FAILED: WorkerState.FAILED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSaid:
    """One model's signals."""

    waiting: int
    running: int
    last_request: float
    oldest_wait: float
    requests: int  # since the gateway's start
    judged: Judged
    awaited_revisions: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSaid:
    """One worker's signals."""

    reachable: bool
    running: int
    slots: int  # as its Stats say; 0: there were none
    stats: WorkerStats | None
    tls_problem: str = ""


def read_model(said: fleet_pb2.ModelSignals) -> ModelSaid:
    """Times that are no times are 0."""
    return ModelSaid(
        waiting=said.waiting,
        running=said.running,
        last_request=_bounded(said.last_request),
        oldest_wait=_bounded(said.oldest_wait),
        requests=said.requests,
        judged=Judged(said.first_tokens, said.late_first_tokens, said.answers, said.slow_answers),
        awaited_revisions=frozenset(
            r for r in said.awaited_revisions[:MOST_REVISIONS] if len(r) <= LONGEST_REVISION
        ),
    )


def read_worker(said: fleet_pb2.WorkerSignals) -> WorkerSaid:
    """With the worker's Stats, if the gateway has any."""
    has_stats = said.HasField("stats")
    return WorkerSaid(
        reachable=said.reachable,
        running=said.running,
        slots=min(said.stats.slots, MOST_SLOTS) if has_stats else 0,
        stats=worker_stats(said.stats) if has_stats else None,
        tls_problem=said.tls_problem[:LONGEST_TEXT],
    )


def worker_stats(stats: worker_pb2.Stats) -> WorkerStats:
    """What decisions read of a worker's Stats."""
    return WorkerStats(
        # A state that a newer worker may have is none in which it can be routed to.
        state=_STATES.get(stats.state, WorkerState.LOADING),
        message=stats.message[:LONGEST_TEXT],
        running=min(stats.running + stats.waiting, stats.slots or MOST_SLOTS, MOST_SLOTS),
        phase=stats.load.phase[:LONGEST_TEXT],
        percent=round(min(_bounded(stats.load.percent), 100.0)),
        eta=round(_bounded(stats.load.eta)),
        phases=tuple(
            (phase.phase[:LONGEST_TEXT], _bounded(phase.began))
            for phase in stats.load.phases[:MOST_PHASES]
        ),
        ready_at=_bounded(stats.load.ready_at),
        model=stats.model[:LONGEST_TEXT],
        digest=stats.model_digest[:LONGEST_TEXT],
        computed_by=stats.computed_by[:LONGEST_TEXT],
        memory=_memory(stats.memory) if stats.HasField("memory") else None,
        work=Work(
            busy_seconds=_bounded(stats.busy_seconds),
            steps=stats.steps,
            prompt_tokens=max(stats.prompt_tokens - stats.cached_tokens, 0),
            completion_tokens=stats.completion_tokens,
            finished=stats.requests_finished,
            prompt_squares=_squares(stats.prompt_squares),
        ),
    )


def _memory(said: worker_pb2.MemoryUse) -> MemoryUse:
    return MemoryUse(
        weights=min(said.weights, MOST_BYTES),
        cache=min(said.cache, MOST_BYTES),
        working=min(said.working, MOST_BYTES),
        available=min(said.available, MOST_BYTES),
    )


def most_slots(said: WorkerSaid | None) -> int:
    """Requests that a worker can have."""
    return said.slots if said is not None and said.slots else MOST_SLOTS


def most_requests(max_queue: int) -> int:
    """New requests that one gateway can have in its queue."""
    return 2 * max(max_queue, MOST_CHOICES)  # interactive and batch ones


def _squares(number: float) -> float:
    """0 for what is no sum of squares: negative, NaN, or beyond all prompts."""
    return number if math.isfinite(number) and 0 < number < 1e30 else 0.0


def _bounded(number: float) -> float:
    """0 for what is no time: negative, NaN, or beyond all dates."""
    return number if math.isfinite(number) and 0 < number < 1e11 else 0.0

"""The worker's Stats message, from its life cycle, counters and engine."""

from __future__ import annotations

from modelfleet_proto import worker_pb2 as pb

from ..task import Task
from .lifecycle import Lifecycle
from .serving_model import ServingModel
from .state import State

FEATURES = ("output_format", "tools")  # see Stats.features

_STATES = {
    State.STANDBY: pb.WORKER_STATE_STANDBY,
    State.LOADING: pb.WORKER_STATE_LOADING,
    State.READY: pb.WORKER_STATE_READY,
    State.DRAINING: pb.WORKER_STATE_DRAINING,
    State.FAILED: pb.WORKER_STATE_FAILED,
}


def build_stats(lifecycle: Lifecycle, worker_id: str, instance_id: str) -> pb.Stats:
    """As of now."""
    status, counters, model = lifecycle.status, lifecycle.counters, lifecycle.model
    stats = pb.Stats(
        worker_id=worker_id,
        instance_id=instance_id,
        state=_STATES[status.state],
        message=status.message,
        model=status.spec.model if status.spec else "",
        steps=counters.steps,
        prompt_tokens=counters.prompt_tokens,
        completion_tokens=counters.completion_tokens,
        cached_tokens=counters.cached_tokens,
        preemptions=counters.preemptions,
        requests_finished=counters.finished,
        requests_cancelled=counters.cancelled,
        bytes_per_token=counters.bytes_per_token,
        takes_many=True,
        features=FEATURES,
        busy_seconds=counters.busy_seconds,
        prompt_squares=counters.prompt_squares,
    )
    progress = lifecycle.progress
    for phase, began in progress.phases:
        stats.load.phases.add(phase=phase, began=began)
    stats.load.ready_at = progress.ready_at
    if status.state is State.LOADING:
        stats.load.phase, stats.load.percent = progress.phase, progress.percent
        stats.load.eta = progress.eta
    if (memory := lifecycle.memory) is not None:
        stats.memory.weights, stats.memory.cache = memory.weights, memory.cache
        stats.memory.working, stats.memory.available = memory.working, memory.available
    if model is not None:
        engine, limits = model.engine.stats, model.engine.limits
        taken = len(lifecycle.streams) - lifecycle.streams.preparing
        stats.model_digest, stats.computed_by = model.digest, model.computed_by
        stats.weights_digest = model.weights_digest
        stats.task = Task.GENERATE if isinstance(model, ServingModel) else Task.EMBED
        how = model.computation
        stats.computation.path, stats.computation.dtype = how.path, how.dtype
        stats.computation.instruction_set = how.instruction_set
        stats.computation.threads = how.threads
        stats.computation.arithmetic, stats.computation.draws = how.arithmetic, how.draws
        stats.context_length, stats.slots = limits.context_length, limits.max_sequences
        # The engine's numbers are as of its last step; requests may have come and gone since.
        stats.running = min(engine.running, taken)
        stats.waiting = taken - stats.running
        stats.kv_blocks = engine.kv_blocks
        stats.kv_blocks_used = engine.kv_blocks_used
        stats.kv_blocks_cached = engine.kv_blocks_cached
        stats.step_seconds = engine.step_seconds
        stats.steps += engine.steps
        stats.busy_seconds += engine.busy_seconds
        stats.prompt_squares += engine.prompt_squares
        stats.prompt_tokens += engine.prompt_tokens
        stats.completion_tokens += engine.completion_tokens
        stats.cached_tokens += engine.cached_tokens
        stats.preemptions += engine.preemptions
    return stats

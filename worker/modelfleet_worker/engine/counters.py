"""The engine's counters."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

from .messages import EngineStats, RequestOutput
from .scheduler import Scheduler, StepPlan


@dataclass(slots=True)
class EngineCounters:
    """Counts from the engine's start; `step_seconds` is a moving average over about 16 steps."""

    steps: int = 0
    step_seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    finished: int = 0
    aborted: int = 0

    def step(self, plan: StepPlan, outputs: Items[RequestOutput], seconds: float) -> None:
        """Counts one step; a prompt and its cache hits count when its first token is out."""
        if not plan.chunks:
            return
        self.steps += 1
        weight = 1 / min(self.steps, 16)
        self.step_seconds += (seconds - self.step_seconds) * weight
        self.preemptions += len(plan.preempted)
        told = {output.request_id for output in outputs}
        for output in outputs:
            self.completion_tokens += len(output.ids)
            self.finished += output.finished is not None
        for chunk in plan.chunks:
            request = chunk.sequence.request
            is_first = chunk.end == len(request.prompt_ids) + len(request.resumed_ids)
            if is_first and request.request_id in told:
                self.prompt_tokens += len(request.prompt_ids)
                self.cached_tokens += chunk.sequence.num_cached_tokens or 0

    def snapshot(self, scheduler: Scheduler) -> EngineStats:
        """The counters beside what the scheduler holds now."""
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            kv_blocks=scheduler.blocks.num_blocks,
            kv_blocks_used=scheduler.blocks.used,
            kv_blocks_cached=scheduler.blocks.cached,
            steps=self.steps,
            step_seconds=self.step_seconds,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_tokens=self.cached_tokens,
            preemptions=self.preemptions,
            finished=self.finished,
            aborted=self.aborted,
        )

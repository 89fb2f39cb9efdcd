"""Counters of this process, across the models that it has served."""

from __future__ import annotations

from dataclasses import dataclass

from ..engine.messages import EngineStats


@dataclass(slots=True)
class WorkerCounters:
    """Counts from the start of the process; an engine's are added when it ends."""

    finished: int = 0
    cancelled: int = 0
    text_bytes: int = 0  # of prompts that came as text
    text_tokens: int = 0  # of the same prompts
    steps: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    busy_seconds: float = 0.0
    prompt_squares: float = 0.0

    @property
    def bytes_per_token(self) -> float:
        """Of prompt text; 0 before the first prompt."""
        return self.text_bytes / self.text_tokens if self.text_tokens else 0.0

    def add_engine(self, engine: EngineStats) -> None:
        """Adds the counters of an engine that has ended."""
        self.steps += engine.steps
        self.busy_seconds += engine.busy_seconds
        self.prompt_squares += engine.prompt_squares
        self.prompt_tokens += engine.prompt_tokens
        self.completion_tokens += engine.completion_tokens
        self.cached_tokens += engine.cached_tokens
        self.preemptions += engine.preemptions

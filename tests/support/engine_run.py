"""Requests through one engine on any runner, from the first step to the last."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from modelfleet_worker.engine.device import Runner
from modelfleet_worker.engine.engine import Engine
from modelfleet_worker.engine.messages import (
    Add,
    EngineFailure,
    EngineStats,
    StepOutput,
    TokenLogprobs,
)
from modelfleet_worker.engine.request import EngineLimits, FinishReason, Request
from modelfleet_worker.engine.scheduler import BLOCK_SIZE


@dataclass
class GeneratedAnswer:
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    cached_tokens: int = 0
    finished: FinishReason | None = None
    failure: str = ""


@dataclass
class Run:
    answers: dict[str, GeneratedAnswer]
    stats: EngineStats


def run_engine(
    runner: Runner,
    requests: Iterable[Request],
    *,
    budget: int = 2048,
    caching: bool = True,
    sequences: int = 32,
    after_step: Callable[[Engine, dict[str, GeneratedAnswer]], None] = lambda *_: None,
    vocab_size: int = 49152,
    aborts: int = 0,
) -> Run:
    """All requests through one engine, until each has finished or `aborts` of them are gone."""
    requests = list(requests)
    delivered: queue.Queue[StepOutput | EngineFailure] = queue.Queue()
    tokens = runner.num_blocks * BLOCK_SIZE
    engine = Engine(
        runner,
        limits=EngineLimits(
            context_length=min(2048, tokens),
            kv_tokens=tokens,
            max_sequences=sequences,
            vocab_size=vocab_size,
        ),
        max_batch_tokens=budget,
        prefix_caching=caching,
        deliver=delivered.put,
    )
    for request in requests:
        engine.submit(Add(request))
    engine.start()
    answers: dict[str, GeneratedAnswer] = {r.request_id: GeneratedAnswer() for r in requests}
    try:
        while True:
            step = delivered.get(timeout=250)
            assert isinstance(step, StepOutput), step
            for output in step.outputs:
                answer = answers[output.request_id]
                answer.ids += output.ids
                answer.logprobs += output.logprobs
                answer.cached_tokens = output.cached_tokens
                answer.finished = output.finished
                answer.failure = output.failure
            after_step(engine, answers)
            if step.stats.finished + step.stats.aborted == len(requests):
                assert step.stats.aborted == aborts
                assert step.stats.kv_blocks_used == 0
                return Run(answers, step.stats)
    finally:
        engine.stop()

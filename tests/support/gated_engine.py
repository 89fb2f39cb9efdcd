"""An engine whose steps a test lets through one by one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence as Items

from modelfleet_worker.engine.device import FinishedStep, Runner, SampledToken
from modelfleet_worker.engine.engine import Engine
from modelfleet_worker.engine.messages import Add, EngineFailure, RequestOutput, StepOutput
from modelfleet_worker.engine.request import EngineLimits, Request
from modelfleet_worker.engine.scheduler import BLOCK_SIZE, Chunk


class Gate(Runner):
    """A runner that computes a step each time it is let through; it may break."""

    def __init__(self, *, opened: bool = False, num_blocks: int = 128) -> None:
        self.num_blocks = num_blocks
        self.steps = threading.Semaphore(10**6 if opened else 0)
        self.entered = threading.Semaphore(0)
        self.error: Exception | None = None

    def launch(self, chunks: Items[Chunk]) -> FinishedStep:
        self.entered.release()
        assert self.steps.acquire(timeout=10)
        if self.error:
            raise self.error
        return FinishedStep([SampledToken(7) for chunk in chunks if chunk.samples])


class Running:
    """An engine, what it delivers, and its end."""

    def __init__(
        self, runner: Runner, *, max_sequences: int = 4, max_batch_tokens: int = 64
    ) -> None:
        self.delivered: queue.Queue[StepOutput | EngineFailure] = queue.Queue()
        self.engine = Engine(
            runner,
            limits=EngineLimits(
                context_length=2048,
                kv_tokens=min(2048, runner.num_blocks * BLOCK_SIZE),
                max_sequences=max_sequences,
                vocab_size=100,
            ),
            max_batch_tokens=max_batch_tokens,
            prefix_caching=True,
            deliver=self.delivered.put,
        )

    def __enter__(self) -> Running:
        self.engine.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.stop()

    def step(self) -> StepOutput:
        output = self.delivered.get(timeout=10)
        assert isinstance(output, StepOutput)
        return output

    def let_through(self, gate: Gate) -> StepOutput:
        """One step, from its plan to what it delivers."""
        assert gate.entered.acquire(timeout=10)
        gate.steps.release()
        return self.step()

    def until_finished(self, name: str) -> list[RequestOutput]:
        outputs: list[RequestOutput] = []
        while not (outputs and outputs[-1].finished):
            outputs += [o for o in self.step().outputs if o.request_id == name]
        return outputs


def add(name: str = "a", *, prompt: int = 3, max_tokens: int = 3, stop: int = 99) -> Add:
    return Add(
        Request(
            request_id=name,
            prompt_ids=(1,) * prompt,
            max_tokens=max_tokens,
            stop_token_ids=frozenset({stop}),
        )
    )

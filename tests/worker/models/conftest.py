"""The real model, ours and transformers', loaded once."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from modelfleet_worker.devices.torch.runner import TorchRunner
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
from modelfleet_worker.loading.loader import load_model
from modelfleet_worker.models.llama import Llama

TEXTS = (
    "The capital of France is",
    "Once upon a time in a land far away there lived",
    "def fibonacci(n):\n",
    "One, two, three, four, five, six, seven,",
    "Q: Why is the sky blue?\nA:",
    "The sea was calm in the morning, and the fishermen had gone out early. " * 4,
)


@dataclass
class Answer:
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    cached_tokens: int = 0
    finished: FinishReason | None = None


@dataclass
class Run:
    answers: dict[str, Answer]
    stats: EngineStats


def run_engine(
    runner: Runner,
    requests: Iterable[Request],
    *,
    budget: int = 2048,
    caching: bool = True,
    sequences: int = 32,
    after_step: Callable[[Engine, dict[str, Answer]], None] = lambda *_: None,
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
    answers: dict[str, Answer] = {r.request_id: Answer() for r in requests}
    try:
        while True:
            step = delivered.get(timeout=60)
            assert isinstance(step, StepOutput), step
            for output in step.outputs:
                answer = answers[output.request_id]
                answer.ids += output.ids
                answer.logprobs += output.logprobs
                answer.cached_tokens = output.cached_tokens
                answer.finished = output.finished
            after_step(engine, answers)
            if step.stats.finished + step.stats.aborted == len(requests):
                assert step.stats.aborted == aborts
                assert step.stats.kv_blocks_used == 0
                return Run(answers, step.stats)
    finally:
        engine.stop()


@pytest.fixture(scope="session")
def engine_run() -> Callable[..., Run]:
    return run_engine


@pytest.fixture(scope="session")
def smollm2() -> Path:
    cache = Path(os.environ.get("MODELFLEET_CACHE", Path.home() / ".cache/modelfleet"))
    folder = cache / "models/HuggingFaceTB/SmolLM2-135M-Instruct"
    if not folder.is_dir():
        pytest.fail(f"{folder} is missing: run `make model` first")
    return folder


@pytest.fixture(scope="session")
def prompts(smollm2: Path) -> list[tuple[int, ...]]:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    return [tuple(tokenizer(text)["input_ids"]) for text in TEXTS]


def our_runner(folder: Path, dtype: str) -> Runner:
    loaded = load_model(
        folder,
        dtype=dtype,
        kv_cache_bytes=256 << 20,
        max_sequences=32,
        max_batch_tokens=2048,
        progress=lambda *_: None,
    )
    return loaded.runner


@pytest.fixture(scope="session")
def runner(smollm2: Path) -> TorchRunner:
    runner = our_runner(smollm2, "Float32")
    assert isinstance(runner, TorchRunner)
    return runner


@pytest.fixture(scope="session")
def bf16_runner(smollm2: Path) -> Runner:
    return our_runner(smollm2, "BFloat16")


@pytest.fixture(scope="session")
def model(runner: TorchRunner) -> Llama:
    return runner.model


@pytest.fixture(scope="session")
def reference(smollm2: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def bf16_reference(smollm2: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.bfloat16).eval()

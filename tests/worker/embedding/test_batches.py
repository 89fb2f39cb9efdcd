"""What a batch of waiting calls takes, and what the loop around it does."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import pytest

from modelfleet_worker.engine.embedding import (
    EmbeddingEngine,
    Encoder,
    EncoderLimits,
    Ids,
    Job,
    Vector,
    next_batch,
)
from modelfleet_worker.engine.messages import EngineFailure

LIMITS = EncoderLimits(context_length=100, vocab_size=100, max_sequences=4, dimensions=1)


def job(*lengths: int) -> Job:
    return Job([[0] * length for length in lengths], lambda vectors: None)


@pytest.mark.parametrize(
    ("jobs", "budget", "batches"),
    [
        pytest.param([(5,), (5,)], 10, [[0, 1]], id="what fits goes together"),
        pytest.param([(6,), (5,)], 10, [[0], [1]], id="what does not waits"),
        pytest.param([(50,)], 10, [[0]], id="one input is taken, however long"),
        pytest.param(
            [(4, 4, 4, 4), (4,)], 8, [[0, 1], [0, 0], [0]], id="a large call holds up no small one"
        ),
    ],
)
def test_takes_calls_in_turn(jobs: list[tuple[int, ...]], budget: int, batches: list[list[int]]):
    waiting = [job(*lengths) for lengths in jobs]
    line, found = deque(waiting), []
    while batch := next_batch(line, budget):
        found.append([waiting.index(one) for one, _ in batch])
    assert found == batches


def test_computes_nothing_for_who_has_left():
    gone, there = job(3, 3), job(3)
    gone.is_wanted = False
    assert next_batch(deque([gone, there]), 100) == [(there, 0)]


class Lengths(Encoder):
    """The vector of a sequence is its length; of 13, there is none."""

    def encode(self, sequences: Sequence[Ids]) -> list[Vector]:
        if any(len(ids) == 13 for ids in sequences):
            raise RuntimeError("thirteen")
        return [bytes([len(ids)]) for ids in sequences]


def test_every_call_gets_its_own_vectors_in_order():
    failures: list[EngineFailure] = []
    engine = EmbeddingEngine(Lengths(), limits=LIMITS, max_batch_tokens=9, fail=failures.append)
    engine.start()
    answers: dict[int, list[Vector]] = {}
    ended = threading.Semaphore(0)

    def keep(number: int, found: list[Vector]) -> None:
        answers[number] = found
        ended.release()

    for n in range(1, 9):
        inputs = [[0] * length for length in range(1, n + 1)]
        engine.submit(Job(inputs, lambda found, n=n: keep(n, found)))
    for _ in range(8):
        assert ended.acquire(timeout=60)
    engine.stop()
    assert answers == {n: [bytes([i]) for i in range(1, n + 1)] for n in range(1, 9)}
    assert engine.stats.finished == 8
    assert engine.stats.prompt_tokens == sum(n * (n + 1) // 2 for n in range(1, 9))
    assert failures == []


def test_an_encoder_that_fails_ends_the_engine_and_says_why():
    failed = threading.Event()
    failures: list[EngineFailure] = []

    def fail(failure: EngineFailure) -> None:
        failures.append(failure)
        failed.set()

    engine = EmbeddingEngine(Lengths(), limits=LIMITS, max_batch_tokens=9, fail=fail)
    engine.start()
    engine.submit(job(13))
    assert failed.wait(60)
    assert "thirteen" in (engine.stalled(0.0) or "")
    engine.submit(job(1))  # told again, and not waited for
    assert [failure.error for failure in failures] == ["RuntimeError: thirteen"] * 2
    engine.stop()

"""What is learned of a worker agrees with what the simulated engine really does."""

from __future__ import annotations

import random
from array import array

import pytest

from modelfleet_operator.decisions.worker_speed import Targets, Work, WorkerSpeed, step_seconds
from modelfleet_operator.simulate.capacity import find_capacity
from modelfleet_operator.simulate.engine import Engine
from modelfleet_operator.simulate.summary import Slo
from modelfleet_operator.simulate.trace import Trace
from modelfleet_process.calibration import Calibration

# Decode min(25 b, 400) tokens/s at batch b, prefill 16,000 tokens/s.
CALIBRATION = Calibration(
    step_seconds=0.0,
    shortest_step_seconds=0.04,
    decode_sequence_seconds=0.0025,
    prefill_token_seconds=0.0000625,
    kv_tokens=1_000_000,
    context_length=1_000_000,
)
LIMITS = {"max_sequences": 64, "max_batch_tokens": 512}
TARGETS = Targets(ttft=2.0, tpot=0.08, most=64, max_batch_tokens=512)


def learn(prompt: int, answer: int, *, seconds: float = 600.0, seed: int = 0) -> WorkerSpeed:
    """Of one engine whose load goes up and down, looked at every two seconds."""
    chance = random.Random(seed)
    engine = Engine(CALIBRATION, **LIMITS)
    speed, before, looked, at, number = WorkerSpeed(), Work(), 2.0, 0.0, 0
    each = answer * 0.04 / 16 + prompt * 0.0000625
    while at < seconds:
        at += chance.expovariate(0.9 / each * (0.3 + 0.7 * ((at // 60) % 3) / 2))
        while min(engine.next_event, looked) <= at:
            if engine.next_event <= looked:
                engine.advance()
                continue
            work = engine.work(looked)
            did = (getattr(work, name) - getattr(before, name) for name in Work.__slots__)
            speed, before, looked = speed.learn(Work(*did)), work, looked + 2.0
        number += 1
        lengths = chance.uniform(0.5, 1.5), chance.uniform(0.5, 1.5)
        engine.submit(at, number, int(prompt * lengths[0]) + 1, int(answer * lengths[1]) + 1)
    return speed


@pytest.mark.parametrize(("prompt", "answer"), [(1155, 211), (2000, 28), (300, 500)])
def test_learns_the_times_of_prompts_and_of_steps(prompt: int, answer: int):
    speed = learn(prompt, answer)
    if prompt > answer:  # else prompts take 2 % of the time, and nobody can tell
        assert speed.prompt_token_seconds() == pytest.approx(0.0000625, rel=0.25)
    curve = speed.step_curve()
    for decodes, _ in curve:
        if 1 <= decodes <= 24:
            expected = max(0.04, 0.0025 * decodes)
            assert step_seconds(curve, decodes) == pytest.approx(expected, rel=0.2), decodes


@pytest.mark.parametrize(("prompt", "answer"), [(1155, 211), (2000, 28), (300, 500)])
def test_derives_how_many_in_flight_keep_the_targets(prompt: int, answer: int):
    limits = learn(prompt, answer).limits(TARGETS)
    chance = random.Random(1)
    lengths = [
        (int(prompt * chance.uniform(0.5, 1.5)) + 1, int(answer * chance.uniform(0.5, 1.5)) + 1)
        for _ in range(600)
    ]
    trace = Trace(
        array("d", range(600)),
        array("q", (prompt for prompt, _ in lengths)),
        array("q", (answer for _, answer in lengths)),
        (),
        "test",
    )
    found = find_capacity(trace, CALIBRATION, Slo(2.0, 0.08), **LIMITS)
    assert limits.in_flight == pytest.approx(found, rel=0.35)


def test_nothing_is_known_before_enough_was_seen():
    assert WorkerSpeed().limits(TARGETS) is None
    few = WorkerSpeed().learn(Work(2.0, 50, 1000, 500, 3))
    assert few.limits(TARGETS) is None


def test_a_worker_that_counts_no_busy_seconds_teaches_nothing():
    assert WorkerSpeed().learn(Work(0.0, 100, 1000, 500, 30)) == WorkerSpeed()


def test_beyond_what_was_seen_a_step_takes_its_time_in_proportion():
    assert step_seconds([(8, 0.04), (16, 0.06)], 12) == pytest.approx(0.05)
    assert step_seconds([(8, 0.04), (16, 0.06)], 32) == pytest.approx(0.12)
    assert step_seconds([(8, 0.04)], 4) == 0.04

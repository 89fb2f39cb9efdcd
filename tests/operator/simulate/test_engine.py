"""The engine that jumps from event to event, beside one that takes every step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet_operator.simulate.engine import Engine
from modelfleet_process.calibration import Calibration

CALIBRATION = Calibration(
    step_seconds=0.01,
    decode_sequence_seconds=0.001,
    prefill_token_seconds=0.002,
    shortest_step_seconds=0.012,
    kv_tokens=160,
)


@dataclass
class Job:
    at: float
    prefill: int
    answer: int
    first: float = math.nan
    last: float = math.nan


@dataclass
class StepByStep:
    """As modelfleet_worker/engine/scheduler.py says it: one step after another."""

    jobs: list[Job]
    slots: int
    budget: int
    running: list[list[int]] = field(default_factory=list)  # job, computed, tokens it has

    def run(self) -> None:
        now, waiting, coming = 0.0, [], sorted(range(len(self.jobs)), key=lambda n: self.jobs[n].at)
        while coming or waiting or self.running:
            if not waiting and not self.running:
                now = max(now, self.jobs[coming[0]].at)
            while coming and self.jobs[coming[0]].at <= now:
                job = coming.pop(0)
                waiting.append([job, 0, self.jobs[job].prefill])
            now += self.step(now, waiting)

    def step(self, now: float, waiting: list[list[int]]) -> float:
        decoding = [s for s in self.running if s[2] > self.jobs[s[0]].prefill]
        others = [s for s in self.running if s not in decoding]
        chunks: list[tuple[list[int], int]] = [(s, 1) for s in decoding]
        left = self.budget - len(decoding)
        for sequence in others:
            take = min(sequence[2] - sequence[1], left)
            if take > 0:
                chunks.append((sequence, take))
                left -= take
        while left > 0 and waiting and len(self.running) < self.slots:
            sequence = waiting.pop(0)
            self.running.append(sequence)
            take = min(sequence[2] - sequence[1], left)
            chunks.append((sequence, take))
            left -= take
        prefilled = sum(take for s, take in chunks if s not in decoding)
        seconds = CALIBRATION.step_time(len(decoding), prefilled)
        for sequence, take in chunks:
            sequence[1] += take
            if sequence[1] == sequence[2]:
                self.token(sequence, now + seconds)
        return seconds

    def token(self, sequence: list[int], at: float) -> None:
        job = self.jobs[sequence[0]]
        sequence[2] += 1
        if math.isnan(job.first):
            job.first = at
        if sequence[2] == job.prefill + job.answer:
            job.last = at
            self.running.remove(sequence)


def simulate(jobs: list[Job], slots: int, budget: int, calibration: Calibration) -> list[Job]:
    engine = Engine(calibration, max_sequences=slots, max_batch_tokens=budget)
    result = [Job(j.at, j.prefill, j.answer) for j in jobs]
    coming = sorted(range(len(jobs)), key=lambda n: jobs[n].at)
    while coming or engine.next_event < math.inf:
        if coming and jobs[coming[0]].at <= engine.next_event:
            job = coming.pop(0)
            engine.submit(jobs[job].at, job, jobs[job].prefill, jobs[job].answer)
            continue
        now = engine.next_event
        first, ended = engine.advance()
        for job in first:
            if math.isnan(result[job].first):
                result[job].first = now
        for job in ended:
            result[job].last = now
    return result


JOBS = st.lists(
    st.builds(
        Job,
        at=st.floats(0, 2).map(lambda at: round(at, 4)),
        prefill=st.integers(1, 40),
        answer=st.integers(1, 30),
    ),
    min_size=1,
    max_size=12,
).map(
    # Steps take whole milliseconds: so none of them comes at another one's boundary.
    lambda jobs: [replace(job, at=job.at + 1e-5 * n) for n, job in enumerate(jobs)]
)


@given(JOBS, st.integers(1, 4), st.sampled_from([7, 16, 64]))
def test_is_exact_to_the_step(jobs: list[Job], slots: int, budget: int):
    wide = CALIBRATION.model_copy(update={"kv_tokens": 10_000})
    reference = [Job(j.at, j.prefill, j.answer) for j in jobs]
    StepByStep(reference, slots, budget).run()
    for found, expected in zip(simulate(jobs, slots, budget, wide), reference, strict=True):
        assert found.first == pytest.approx(expected.first, abs=1e-6)
        assert found.last == pytest.approx(expected.last, abs=1e-6)


@given(JOBS, st.integers(1, 6))
def test_every_request_ends_also_where_the_cache_is_short(jobs: list[Job], slots: int):
    for job in simulate(jobs, slots, 16, CALIBRATION):
        assert job.at < job.first <= job.last


def test_a_full_cache_preempts_the_youngest():
    jobs = [Job(0.0, 70, 60), Job(0.001, 70, 60)]
    alone = simulate(jobs[:1], 2, 256, CALIBRATION)[0]
    old, young = simulate(jobs, 2, 256, CALIBRATION)
    assert old.last < young.last
    assert old.last - alone.last < 1  # it was not held up by more than a batch's price
    assert young.last > 2 * alone.last - 1  # it began its answer twice


def computed(engine: Engine, jobs: list[Job], until: float) -> tuple[set[int], set[int]]:
    """Which jobs came until then, and which of them have ended."""
    coming = sorted(range(len(jobs)), key=lambda n: jobs[n].at)
    ended: set[int] = set()
    while True:
        if coming and jobs[coming[0]].at <= min(engine.next_event, until):
            job = coming.pop(0)
            engine.submit(jobs[job].at, job, jobs[job].prefill, jobs[job].answer)
        elif engine.next_event <= until:
            ended.update(engine.advance()[1])
        else:
            return set(range(len(jobs))) - set(coming), ended


@given(JOBS, st.floats(0.05, 3))
def test_what_is_evicted_goes_on_with_the_tokens_that_it_had(jobs: list[Job], at: float):
    engine = Engine(CALIBRATION, max_sequences=4, max_batch_tokens=32)
    came, ended = computed(engine, jobs, at)
    left = engine.evict(at)
    assert {request for request, _, _ in left} == came - ended
    for request, prefill, answer in left:
        assert answer >= 1
        assert prefill + answer == jobs[request].prefill + jobs[request].answer
    assert engine.next_event == math.inf


@given(JOBS, st.floats(0.05, 3), st.integers(0, 6))
def test_those_that_stay_when_some_are_evicted_end_in_their_time(
    jobs: list[Job], at: float, most: int
):
    """As if those that go had ended with the step that was computed."""
    engine = Engine(CALIBRATION, max_sequences=8, max_batch_tokens=32)
    came, ended = computed(engine, jobs, at)
    gone = engine.evict(at, most)
    assert len(gone) == min(most, len(came - ended))
    for request, prefill, answer in gone:
        assert answer >= 1
        assert prefill + answer == jobs[request].prefill + jobs[request].answer
    now = at
    while engine.next_event < math.inf:
        assert engine.next_event >= now
        now = engine.next_event
        ended.update(engine.advance()[1])
    assert came - {request for request, _, _ in gone} <= ended
    assert engine.work(now).finished == len(ended)
    answered = sum(jobs[n].answer for n in ended)
    had = sum(jobs[n].answer - answer for n, _, answer in gone)
    assert engine.work(now).completion_tokens == answered + had
    rest = Job(now, 30, 5)
    engine.submit(now, 999, rest.prefill, rest.answer)  # the cache is as empty as it should be
    assert engine._cached <= 160

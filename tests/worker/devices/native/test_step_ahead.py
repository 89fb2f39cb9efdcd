"""A step that is launched before the last one is read changes nothing but the time it takes."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence

import pytest
import torch

from engine_run import run_engine
from modelfleet_worker.devices.native.runner import NativeRunner
from modelfleet_worker.engine.device import FinishedStep, Runner
from modelfleet_worker.engine.engine import Engine
from modelfleet_worker.engine.messages import Abort, Add, StepOutput
from modelfleet_worker.engine.request import EngineLimits, FinishReason, Request, SamplingParams
from modelfleet_worker.engine.scheduler import BLOCK_SIZE, Chunk
from quantized_models import native_runner

pytestmark = pytest.mark.usefixtures("arithmetic")

VOCAB = 503
REQUESTS = 12


class OneByOne(Runner):
    """The same runner, asked for the next step when the last one is read."""

    def __init__(self, runner: NativeRunner) -> None:
        self.num_blocks, self._runner = runner.num_blocks, runner

    def launch(self, chunks: Sequence[Chunk]) -> FinishedStep:
        return FinishedStep(self._runner.execute(chunks))


@pytest.fixture(scope="module")
def runner(arithmetic: str, tmp_path_factory: pytest.TempPathFactory) -> NativeRunner:
    return native_runner(tmp_path_factory.mktemp("model"), VOCAB)


def small(runner: NativeRunner) -> NativeRunner:
    """With a cache that does not hold all requests at once."""
    return NativeRunner(runner.model, num_blocks=12, context_length=128, threads=2)


def requests(**params) -> list[Request]:
    numbers = torch.Generator().manual_seed(5)
    return [
        Request(
            request_id=str(i),
            prompt_ids=tuple(torch.randint(VOCAB, (7 + 3 * i,), generator=numbers).tolist()),
            resumed_ids=(1, 2, 3)[: i % 4],
            sampling=SamplingParams(seed=i, **params),
            max_tokens=4 + 3 * i,
            stop_token_ids=frozenset(range(i, VOCAB, 40)),  # some end early
        )
        for i in range(REQUESTS)
    ]


HOW = [
    {},
    {"temperature": 1.5},
    {"temperature": 1.0, "top_p": 0.9, "frequency_penalty": 0.7, "presence_penalty": 0.3},
    {"repetition_penalty": 1.8},
    {"temperature": 1.0, "logprobs": 3},
]


def outcome(run) -> dict[str, tuple]:
    return {name: (a.ids, a.logprobs, a.finished) for name, a in run.answers.items()}


@pytest.mark.parametrize("budget", [5, 64])
@pytest.mark.parametrize("how", HOW, ids=str)
def test_answers_are_the_same(runner: NativeRunner, how: dict, budget: int):
    assert runner.max_steps_in_flight > 0
    one_by_one = OneByOne(runner)
    assert one_by_one.max_steps_in_flight == 0
    found, expected = (
        run_engine(r, requests(**how), budget=budget, caching=False, vocab_size=VOCAB)
        for r in (runner, one_by_one)
    )
    assert outcome(found) == outcome(expected)
    assert {a.finished for a in found.answers.values()} == set(FinishReason)
    counted = ("prompt_tokens", "completion_tokens", "finished", "preemptions")
    assert [getattr(found.stats, n) for n in counted] == [
        getattr(expected.stats, n) for n in counted
    ]


@pytest.mark.parametrize("how", HOW, ids=str)
def test_answers_are_the_same_when_requests_give_way(runner: NativeRunner, how: dict):
    expected = run_engine(OneByOne(runner), requests(**how), caching=False, vocab_size=VOCAB)
    crowded = run_engine(small(runner), requests(**how), budget=40, vocab_size=VOCAB)
    assert crowded.stats.preemptions > 0
    assert outcome(crowded) == outcome(expected)


def test_a_neighbour_that_is_aborted_changes_nothing(runner: NativeRunner):
    expected = run_engine(OneByOne(runner), requests(), vocab_size=VOCAB)

    def abort(engine, answers) -> None:
        if len(answers["11"].ids) >= 2:
            engine.submit(Abort("11"))

    found = run_engine(runner, requests(), after_step=abort, aborts=1, vocab_size=VOCAB)
    assert found.stats.aborted == 1
    for name in (str(i) for i in range(REQUESTS - 1)):
        assert found.answers[name].ids == expected.answers[name].ids


def deliveries(runner: NativeRunner, *lengths: tuple[int, int]) -> Iterator[dict[str, int]]:
    """How many tokens of each request came at once; with one delivery an hour, if none is due."""
    delivered: queue.Queue[StepOutput] = queue.Queue()
    tokens = runner.num_blocks * BLOCK_SIZE
    engine = Engine(
        runner,
        limits=EngineLimits(
            context_length=128, kv_tokens=tokens, max_sequences=4, vocab_size=VOCAB
        ),
        max_batch_tokens=8,
        prefix_caching=False,
        deliver=delivered.put,
        deliver_every=3600,
    )
    for name, (prompt, new) in zip("ab", lengths, strict=False):
        ids = tuple(range(prompt))
        engine.submit(Add(Request(request_id=name, prompt_ids=ids, max_tokens=new)))
    engine.start()
    try:
        ended = 0
        while ended < len(lengths):
            outputs = delivered.get(timeout=250).outputs
            ended += sum(output.finished is not None for output in outputs)
            names = [output.request_id for output in outputs]
            yield {name: names.count(name) for name in names}
    finally:
        engine.stop()


def test_tokens_come_together_but_the_first_and_the_last_at_once(runner: NativeRunner):
    first, *_, last = deliveries(runner, (8, 30))
    assert first == {"a": 1}
    assert last["a"] > 1


def test_no_token_waits_behind_a_prompt(runner: NativeRunner):
    """Which is computed in 8 steps and more, beside the tokens of the other request."""
    for delivery in deliveries(runner, (8, 60), (64, 2)):
        assert delivery.get("a", 1) == 1
        if "b" in delivery:
            break

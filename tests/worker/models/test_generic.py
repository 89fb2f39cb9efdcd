"""Decoders of transformers' modules with our attention and cache, in float32: tiny and random."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import PreTrainedModel

from engine_run import run_engine
from generic_models import MODELS, VOCAB, WINDOW, greedy, load, runner_of, saved
from modelfleet_worker.devices.torch.generic_runner import GenericRunner
from modelfleet_worker.engine.device import LoadedModel
from modelfleet_worker.engine.request import Request, SamplingParams

NEW = 12  # tokens of each answer
# One of them is shorter than the window, and grows beyond it; two share a prefix of two blocks.
PROMPTS = [
    tuple((7 * i + 3) % VOCAB for i in range(5)),
    tuple((11 * i + 5) % VOCAB for i in range(40)),
    tuple((11 * i + 5) % VOCAB for i in range(36)),
    tuple((5 * i * i + 1) % VOCAB for i in range(61)),
]
assert len(PROMPTS[0]) < WINDOW < len(PROMPTS[1])


@dataclasses.dataclass(frozen=True)
class Pair:
    theirs: PreTrainedModel
    ours: LoadedModel
    expected: list[list[int]]  # transformers' greedy answers


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("model")
    theirs = saved(request.param, folder)
    expected = [greedy(theirs, prompt, NEW) for prompt in PROMPTS]
    assert all(len(set(answer)) > 1 for answer in expected)
    return Pair(theirs, load(folder), expected)


def requests() -> list[Request]:
    return [
        Request(
            request_id=str(i),
            prompt_ids=prompt,
            max_tokens=NEW,
            sampling=SamplingParams(logprobs=1),
        )
        for i, prompt in enumerate(PROMPTS)
    ]


def answers(run) -> list[list[int]]:
    return [run.answers[str(i)].ids for i in range(len(PROMPTS))]


@pytest.mark.parametrize(
    ("budget", "caching"), [(1, True), (7, True), (7, False), (100_000, True), (100_000, False)]
)
def test_says_what_transformers_says(pair: Pair, budget: int, caching: bool):
    # The longest is left out where each of its tokens is a step: it says nothing more there.
    few = requests()[:3] if budget == 1 else requests()
    run = run_engine(pair.ours.runner, few, budget=budget, caching=caching, vocab_size=VOCAB)
    assert [run.answers[r.request_id].ids for r in few] == pair.expected[: len(few)]


def test_alone_and_after_a_hit_in_the_prefix_cache(pair: Pair):
    run = run_engine(pair.ours.runner, requests(), sequences=1, vocab_size=VOCAB)
    assert answers(run) == pair.expected
    assert run.answers["2"].cached_tokens == 32


def test_with_forced_preemption(pair: Pair):
    tiny = GenericRunner(runner_of(pair.ours).model, num_blocks=10)
    same = [dataclasses.replace(requests()[1], request_id=str(i)) for i in range(3)]
    run = run_engine(tiny, same, caching=False, vocab_size=VOCAB)
    assert run.stats.preemptions > 0
    assert [run.answers[str(i)].ids for i in range(3)] == [pair.expected[1]] * 3


def test_logprobs_are_those_of_the_teacher_forced_model(pair: Pair):
    run = run_engine(pair.ours.runner, requests(), budget=24, vocab_size=VOCAB)
    for i, prompt in enumerate(PROMPTS):
        answer = run.answers[str(i)]
        with torch.inference_mode():
            logits = pair.theirs(torch.tensor([[*prompt, *answer.ids]])).logits
        chosen = logits[0, len(prompt) - 1 : -1].log_softmax(-1).amax(-1).tolist()
        assert [p.chosen for p in answer.logprobs] == pytest.approx(chosen, abs=1e-4)

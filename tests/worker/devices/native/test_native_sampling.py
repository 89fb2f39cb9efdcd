"""Tokens drawn inside of the compiled step are those that the sampler in Python draws."""

from __future__ import annotations

import pytest
import torch

from modelfleet_worker.devices.native.runner import NativeRunner
from modelfleet_worker.devices.torch.sampler import Draw, sample
from modelfleet_worker.engine.request import Request, SamplingParams, Sequence
from modelfleet_worker.engine.scheduler import Chunk
from quantized_models import native_runner, step_logits

pytestmark = pytest.mark.usefixtures("arithmetic")

VOCAB = 1003  # no multiple of anything
SEQUENCES = 60  # a block each; the cache has 64


@pytest.fixture(scope="module")
def runner(arithmetic: str, tmp_path_factory: pytest.TempPathFactory) -> NativeRunner:
    return native_runner(tmp_path_factory.mktemp("model"), VOCAB)


def sequences(**params) -> list[Sequence]:
    """Each has another prompt, another seed, and is at another token of its answer."""
    made = []
    for i in range(SEQUENCES):
        generator = torch.Generator().manual_seed(i)
        ids = torch.randint(VOCAB, (8 + i % 7,), generator=generator).tolist()
        sequence = Sequence(
            Request(
                request_id=str(i),
                prompt_ids=tuple(ids[: 3 + i % 4]),
                resumed_ids=tuple(ids[3 + i % 4 :]),
                sampling=SamplingParams(seed=2**64 - 1 - i, choice=i % 3, **params),
                max_tokens=50,
            )
        )
        sequence.block_table = [i]
        made.append(sequence)
    return made


BIAS = tuple((token, 4.0) for token in range(0, VOCAB, 17))


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 1.0},
        {"temperature": 0.3},
        {"temperature": 1e-6},
        {"temperature": 50.0},
        {"temperature": 1.0, "top_k": 1},
        {"temperature": 2.0, "top_k": 40},
        {"temperature": 2.0, "top_k": 5000},
        {"temperature": 1.0, "top_p": 0.9},
        {"temperature": 3.0, "top_p": 0.999},
        {"temperature": 1.0, "top_p": 1e-9},
        {"temperature": 2.0, "min_p": 0.05},
        {"temperature": 2.0, "min_p": 0.001, "top_k": 100, "top_p": 0.8},
        {"temperature": 0.0, "repetition_penalty": 1.5},
        {"temperature": 1.0, "repetition_penalty": 0.7},
        {"temperature": 0.0, "presence_penalty": 2.0, "frequency_penalty": -1.5},
        {"temperature": 0.0, "logit_bias": BIAS},
        {"temperature": 1.0, "logit_bias": ((5, -100.0), (7, 100.0)), "frequency_penalty": 0.5},
    ],
    ids=str,
)
def test_draws_what_the_sampler_draws(runner: NativeRunner, params: dict):
    chunks = [Chunk.of(s, len(s.token_ids)) for s in sequences(**params)]
    drawn = [token.id for token in runner.execute(chunks)]
    expected = sample(step_logits(runner, chunks), [Draw.of(c) for c in chunks])
    same = sum(a == b.id for a, b in zip(drawn, expected, strict=True))
    assert same >= SEQUENCES - 1  # two may finish together, or an edge of the nucleus be a tie


def test_greedy_and_drawn_rows_share_a_batch(runner: NativeRunner):
    greedy, drawing = sequences(), sequences(temperature=1.0)
    mixed = [pair[i % 2] for i, pair in enumerate(zip(greedy, drawing, strict=True))]
    chunks, alone = ([Chunk.of(s, len(s.token_ids)) for s in some] for some in (mixed, greedy))
    assert runner.execute(chunks)[::2] == runner.execute(alone)[::2]


def test_logprobs_are_of_the_token_that_was_drawn(runner: NativeRunner):
    chunks = [Chunk.of(s, 99) for s in sequences(temperature=1.5, logprobs=2)]
    tokens = runner.execute(chunks)
    truth = step_logits(runner, chunks).log_softmax(-1)
    for row, token in enumerate(tokens):
        assert token.logprobs is not None
        assert token.logprobs.chosen == pytest.approx(float(truth[row, token.id]))
        assert len(token.logprobs.top) == 2

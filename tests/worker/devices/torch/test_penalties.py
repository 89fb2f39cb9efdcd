"""Bias and penalties, against what their definitions say of one token at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor

from modelfleet_worker.devices.torch.penalties import shifted
from modelfleet_worker.engine.request import SamplingParams

VOCAB = 12
token_ids = st.integers(0, VOCAB - 1)
penalties = st.floats(-2, 2, width=32)


def by_definition(
    logits: list[float], params: SamplingParams, prompt: list[int], answer: list[int]
) -> list[float]:
    """Token by token, without a thought for speed."""
    found = []
    for token_id, raw in enumerate(logits):
        logit = raw + dict(params.logit_bias).get(token_id, 0.0)
        if token_id in prompt + answer:
            if logit > 0:
                logit /= params.repetition_penalty
            else:
                logit *= params.repetition_penalty
        logit -= params.frequency_penalty * answer.count(token_id)
        logit -= params.presence_penalty * (token_id in answer)
        found.append(logit)
    return found


def some_logits(vocab: int = 3000) -> Tensor:
    return torch.randn(vocab, generator=torch.Generator().manual_seed(0)) * 3


@settings(deadline=None)
@given(
    logits=st.lists(st.floats(-50, 50, width=32), min_size=VOCAB, max_size=VOCAB),
    prompt=st.lists(token_ids, min_size=1, max_size=20),
    answer=st.lists(token_ids, max_size=20),
    params=st.builds(
        SamplingParams,
        logit_bias=st.dictionaries(token_ids, st.floats(-100, 100, width=32)).map(
            lambda bias: tuple(bias.items())
        ),
        repetition_penalty=st.floats(1 / 16, 16, width=32),
        presence_penalty=penalties,
        frequency_penalty=penalties,
    ),
)
def test_bias_and_penalties_equal_their_definition(
    logits: list[float], prompt: list[int], answer: list[int], params: SamplingParams
):
    given_logits = torch.tensor(logits)
    found = shifted(given_logits, params, prompt + answer, len(prompt))
    expected = by_definition(logits, params, prompt, answer)
    assert found.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-4)
    assert given_logits.tolist() == logits, "logprobs are still to be read from them"


@pytest.mark.parametrize("penalty", [0.5, 1.3, 16.0])
def test_the_repetition_penalty_is_that_of_transformers(penalty: float):
    logits, ids = some_logits(), [5, 7, 7, 2999, 0, 5]
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    expected = processor(torch.tensor([ids]), logits[None].clone())[0]
    params = SamplingParams(repetition_penalty=penalty)
    assert shifted(logits, params, ids, 2).equal(expected)


def test_the_prompt_counts_for_the_repetition_penalty_only():
    logits, prompt = torch.ones(4), [1, 1, 2]
    said = SamplingParams(presence_penalty=1.0, frequency_penalty=0.5)
    assert shifted(logits, said, prompt, 3).tolist() == [1, 1, 1, 1]
    assert shifted(logits, said, prompt, 1).tolist() == [1, -0.5, -0.5, 1]
    seen = SamplingParams(repetition_penalty=2.0)
    assert shifted(logits, seen, prompt, 3).tolist() == [1, 0.5, 0.5, 1]


def test_a_token_that_a_model_rules_out_stays_out():
    logits = torch.tensor([-torch.inf, 1.0])
    params = SamplingParams(logit_bias=((0, 100.0),), repetition_penalty=2.0)
    assert shifted(logits, params, [0, 1], 1).tolist() == [-torch.inf, 0.5]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(logit_bias=((3, 0.1),)),
        SamplingParams(repetition_penalty=1.01),
        SamplingParams(presence_penalty=-0.1),
        SamplingParams(frequency_penalty=0.1),
    ],
)
def test_each_of_them_alone_shifts_logits(params: SamplingParams):
    assert params.shifts_logits
    assert not shifted(torch.ones(4), params, [0, 3], 1).equal(torch.ones(4))


def test_other_options_shift_nothing():
    assert not SamplingParams(temperature=1.0, top_k=2, top_p=0.5, min_p=0.1).shifts_logits

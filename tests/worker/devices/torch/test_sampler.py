"""How tokens are drawn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import MinPLogitsWarper

from modelfleet_worker.devices.torch.sampler import Draw, noise, sample, truncate
from modelfleet_worker.engine.request import SamplingParams


def draw(position: int = 0, **params) -> Draw:
    token_ids = range(position + 1)  # 0 is the prompt
    return Draw(SamplingParams(**params), position, token_ids)


def random_logits(rows: int = 1, vocab: int = 3000, *, seed: int = 0) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


def drawn(logits: Tensor, count: int, **params) -> Tensor:
    """How often each token comes in `count` positions."""
    rows = logits.expand(count, -1)
    tokens = sample(rows, [draw(i, temperature=1.0, **params) for i in range(count)])
    return torch.bincount(torch.tensor([t.id for t in tokens]), minlength=logits.shape[-1])


def test_temperature_zero_takes_the_likeliest():
    logits = random_logits(4)
    assert [t.id for t in sample(logits, [draw()] * 4)] == logits.argmax(-1).tolist()


def test_draws_follow_the_distribution():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0, 0.5, -3.0, 1.5, 0.2]])
    count = 20_000
    expected = logits[0].softmax(-1) * count
    chi_square = float(((drawn(logits, count) - expected) ** 2 / expected).sum())
    assert chi_square < 24.3  # 7 degrees of freedom, p = 0.001


def test_top_k_draws_follow_the_rest_of_the_distribution():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0, 0.5, -3.0, 1.5, 0.2]])
    count = 10_000
    found = drawn(logits, count, top_k=3)
    kept = torch.tensor([1, 2, 6])
    expected = logits[0, kept].softmax(-1) * count
    assert int(found[kept].sum()) == count
    assert float(((found[kept] - expected) ** 2 / expected).sum()) < 13.8  # 2 degrees, p = 0.001


def test_a_draw_does_not_depend_on_the_batch():
    logits = random_logits(6)
    draws = [draw(i, temperature=0.8, top_p=0.9, seed=i) for i in range(6)]
    together = [t.id for t in sample(logits, draws)]
    assert together == [sample(logits[i : i + 1], draws[i : i + 1])[0].id for i in range(6)]


def test_seed_choice_and_position_give_independent_noise():
    base = noise(draw(5, seed=1, choice=0), 1000)
    assert (noise(draw(5, seed=1, choice=0), 1000) == base).all()
    for other in (draw(6, seed=1), draw(5, seed=2), draw(5, seed=1, choice=1)):
        correlation = torch.corrcoef(
            torch.stack([torch.from_numpy(base), torch.from_numpy(noise(other, 1000))])
        )[0, 1]
        assert abs(float(correlation)) < 0.15


def test_noise_is_the_same_on_every_machine():
    # A stream is resumed on another worker, maybe with another numpy: these may never change.
    found = noise(draw(3, seed=2**64 - 1, choice=7), 3).tolist()
    assert found == pytest.approx(
        [1.0503765161282097, 0.02374781764244284, -2.2144927745248673], rel=1e-12
    )


def brute_force(scores: list[float], top_k: int, top_p: float, min_p: float) -> set[int]:
    """Which tokens stay, by the definition."""
    kept = sorted(range(len(scores)), key=lambda i: -scores[i])
    best = scores[kept[0]]
    kept = [i for i in kept if math.exp(scores[i]) >= min_p * math.exp(best)]
    if top_k:
        kept = kept[:top_k]
    total = sum(math.exp(scores[i]) for i in kept)
    nucleus, mass = [], 0.0
    for i in kept:
        if mass >= top_p:
            break
        nucleus.append(i)
        mass += math.exp(scores[i]) / total
    return set(nucleus)


@pytest.mark.parametrize("top_k", [0, 1, 7, 1500, 10_000])
@pytest.mark.parametrize("top_p", [0.001, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("min_p", [0.0, 1e-4, 0.1, 1.0])
def test_truncation_equals_its_definition(top_k: int, top_p: float, min_p: float):
    for seed in range(3):
        scores = random_logits(seed=seed)[0]
        kept = truncate(scores, top_k, top_p, min_p).isfinite().nonzero().flatten().tolist()
        assert set(kept) == brute_force(scores.double().tolist(), top_k, top_p, min_p)


@pytest.mark.parametrize("min_p", [1e-6, 0.01, 0.3, 1.0])
def test_min_p_is_that_of_transformers(min_p: float):
    scores = random_logits()[0]
    expected = MinPLogitsWarper(min_p)(torch.zeros(1, 0), scores[None].clone())[0]
    assert truncate(scores, 0, 1.0, min_p).equal(expected)


def test_min_p_is_of_probabilities_after_the_temperature():
    logits = torch.tensor([[0.0, -2.0, -4.0]])
    found = {
        temperature: {
            sample(logits, [draw(i, temperature=temperature, min_p=0.3)])[0].id for i in range(200)
        }
        for temperature in (1.0, 2.0, 4.0)
    }
    assert found == {1.0: {0}, 2.0: {0, 1}, 4.0: {0, 1, 2}}


def test_a_flat_distribution_needs_more_than_the_first_candidates():
    scores = torch.linspace(0, 0.001, 3000)
    kept = truncate(scores, 0, 0.9).isfinite().sum()
    assert 2695 <= int(kept) <= 2705


def test_ties_at_the_edge_stay_in():
    assert truncate(torch.tensor([1.0, 1.0, 0.0]), 1, 1.0).isfinite().tolist() == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("temperature", [1e-30, 1e-5])
def test_a_tiny_temperature_is_nearly_greedy(temperature: float):
    logits = random_logits()
    (token,) = sample(logits, [draw(temperature=temperature)])
    assert token.id == int(logits.argmax())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bias_and_penalties_come_first_and_concern_their_own_row_only(temperature: float):
    logits = torch.tensor([5.0, 4.0, 3.0, 2.0]).expand(4, -1)
    draws = [
        draw(temperature=temperature, top_k=1),
        draw(temperature=temperature, top_k=1, logit_bias=((2, 2.5),)),
        draw(temperature=temperature, top_k=1, repetition_penalty=1.5),  # 0 is the prompt
        draw(3, temperature=temperature, top_k=1, logit_bias=((0, -100.0),), presence_penalty=2.5),
    ]
    assert [t.id for t in sample(logits, draws)] == [0, 2, 1, 1]
    assert [t.id for t in sample(logits[:1], draws[:1])] == [0]
    assert logits[0].tolist() == [5, 4, 3, 2]


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_logprobs_ignore_every_sampling_option(temperature: float):
    logits = random_logits()
    options = {"top_k": 2, "min_p": 0.1, "logit_bias": ((9, 5.0),), "repetition_penalty": 1.5}
    options |= {"presence_penalty": 1.0, "frequency_penalty": 1.0}
    (token,) = sample(logits, [draw(3, temperature=temperature, logprobs=3, **options)])
    assert token.logprobs is not None
    expected = logits[0].log_softmax(-1)
    assert token.logprobs.chosen == pytest.approx(float(expected[token.id]))
    assert [i for i, _ in token.logprobs.top] == expected.topk(3).indices.tolist()
    (plain,) = sample(logits, [draw(logprobs=0)])
    assert plain.logprobs is not None
    assert plain.logprobs.top == ()
    assert sample(logits, [draw()])[0].logprobs is None

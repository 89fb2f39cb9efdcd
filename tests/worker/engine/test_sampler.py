"""How tokens are drawn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from modelfleet_worker.engine.messages import SamplingParams
from modelfleet_worker.engine.sampler import Draw, noise, sample, truncate


def draw(position: int = 0, **params) -> Draw:
    return Draw(SamplingParams(**params), position)


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


def brute_force(scores: list[float], top_k: int, top_p: float) -> set[int]:
    """Which tokens stay, by the definition."""
    kept = sorted(range(len(scores)), key=lambda i: -scores[i])
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
def test_truncation_equals_its_definition(top_k: int, top_p: float):
    for seed in range(3):
        scores = random_logits(seed=seed)[0]
        kept = truncate(scores, top_k, top_p).isfinite().nonzero().flatten().tolist()
        assert set(kept) == brute_force(scores.double().tolist(), top_k, top_p)


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


def test_logprobs_ignore_temperature_and_truncation():
    logits = random_logits()
    (token,) = sample(logits, [draw(temperature=2.0, top_k=2, logprobs=3)])
    assert token.logprobs is not None
    expected = logits[0].log_softmax(-1)
    assert token.logprobs.chosen == pytest.approx(float(expected[token.id]))
    assert [i for i, _ in token.logprobs.top] == expected.topk(3).indices.tolist()
    (plain,) = sample(logits, [draw(logprobs=0)])
    assert plain.logprobs is not None
    assert plain.logprobs.top == ()
    assert sample(logits, [draw()])[0].logprobs is None

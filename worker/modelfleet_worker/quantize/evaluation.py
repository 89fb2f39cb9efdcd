"""What a change of the weights cost: perplexity and KL divergence on text, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..models.config import read_config
from ..models.llama import Llama
from .plain import load_plain, logits
from .routing import Routing, compare_choices
from .step_model import StepModel

_RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with the ends of its 95 % interval, by resampling windows of text."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one model against the original, over `tokens` predicted tokens."""

    tokens: int
    perplexity: Estimate
    perplexity_ratio: Estimate  # to the original's, on the same windows
    divergence: Estimate  # mean KL(original || this), nats a token
    same_choice: Estimate  # share of tokens whose likeliest successor is the same


def logprobs(model: Llama | StepModel, ids: Tensor) -> Tensor:
    """Of all tokens after each of ids [T] but the last, [T - 1, vocab]."""
    found = model.logits(ids) if isinstance(model, StepModel) else logits(model, ids)
    return found[:-1].log_softmax(-1)


def compare(truth: Tensor, own: Tensor, ids: Tensor) -> list[float]:
    """Of one window: its predicted tokens, both mean losses, the divergence and same choices.

    `truth` and `own` are the original's and the other model's `logprobs` of ids [T].
    """
    losses = [-float(each.gather(1, ids[1:, None]).mean()) for each in (truth, own)]
    divergence = float(torch.sum(truth.exp() * (truth - own), dim=-1).mean())
    same = float((own.argmax(-1) == truth.argmax(-1)).float().mean())
    return [len(ids) - 1, *losses, divergence, same]


def summarize(windows: list[list[float]]) -> Cost:
    """Of what `compare` said of windows of one length."""
    rows = torch.tensor(windows, dtype=torch.float64)
    return Cost(
        tokens=int(rows[:, 0].sum()),
        perplexity=_estimate(rows[:, 2], math.exp),
        perplexity_ratio=_estimate(rows[:, 2] - rows[:, 1], math.exp),
        divergence=_estimate(rows[:, 3], float),
        same_choice=_estimate(rows[:, 4], float),
    )


def evaluate(
    original: Llama | StepModel,
    other: Llama | StepModel,
    texts: list[Tensor],
    progress: Callable[[float], None] = lambda _: None,
) -> Cost:
    """Over windows of token ids of one length."""
    rows = []
    for i, ids in enumerate(texts):
        rows.append(compare(logprobs(original, ids), logprobs(other, ids), ids))
        progress((i + 1) / len(texts))
    return summarize(rows)


def evaluate_routing(
    original: Llama | StepModel, other: Llama | StepModel, texts: list[Tensor]
) -> Routing | None:
    """Over texts of token ids. None: the models have no routers."""
    if not isinstance(original, StepModel) or not isinstance(other, StepModel):
        return None
    if not original.has_experts:
        return None
    chosen = [original.choices(ids) for ids in texts]
    return compare_choices(chosen, [other.choices(ids) for ids in texts])


def load_to_compare(folder: Path) -> Llama | StepModel:
    """On torch in float32, or what our modules of torch lack in the step. Raises ModelError."""
    return load_plain(folder) if read_config(folder).on_torch else StepModel(folder)


def _estimate(values: Tensor, transform: Callable[[float], float]) -> Estimate:
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(len(values), (_RESAMPLES, len(values)), generator=generator)
    means = values[picks].mean(1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return Estimate(value=transform(float(values.mean())), low=transform(low), high=transform(high))

"""A request's bias and penalties, added to the logits before a token is drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from ...engine.request import SamplingParams


def shifted(
    logits: Tensor, params: SamplingParams, token_ids: Sequence[int], prompt_length: int
) -> Tensor:
    """A copy of `logits` [vocab] with bias and penalties, in vLLM's order.

    `token_ids` are the prompt and then all generated tokens, wherever they were generated: a
    resumed stream goes on as if it had never moved. Only the tokens concerned are touched.
    """
    logits = logits.clone()
    if params.logit_bias:
        biased, bias = zip(*params.logit_bias, strict=True)
        logits[_index(biased, logits)] += torch.tensor(bias, device=logits.device)
    if params.repetition_penalty != 1:
        seen = _index(set(token_ids), logits)
        found = logits[seen]
        penalty = params.repetition_penalty
        logits[seen] = torch.where(found > 0, found / penalty, found * penalty)
    if params.presence_penalty != 0 or params.frequency_penalty != 0:
        times = Counter(token_ids[prompt_length:])
        counts = torch.tensor(tuple(times.values()), device=logits.device)
        penalties = params.presence_penalty + params.frequency_penalty * counts
        logits[_index(times, logits)] -= penalties
    return logits


def _index(ids: Collection[int], logits: Tensor) -> Tensor:
    return torch.tensor(tuple(ids), dtype=torch.long, device=logits.device)

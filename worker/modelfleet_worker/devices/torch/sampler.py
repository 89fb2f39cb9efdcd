"""Draws tokens from logits: the same for the same request, whatever else is in the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...engine.device import SampledToken
from ...engine.messages import TokenLogprobs
from ...engine.request import SamplingParams
from ...engine.scheduler import Chunk
from ..masks import Allowed, allowed_tokens
from .penalties import shifted

_NUCLEUS = 1024  # candidates that nearly always hold top_p; sorting the vocabulary is 10x slower


@dataclass(frozen=True, slots=True)
class Draw:
    """One row of the logits: how to draw, for which position of the answer (0 is the first)."""

    params: SamplingParams
    position: int
    token_ids: Items[int]  # prompt and answer so far; a pending one is not among them
    allowed: Allowed | None = None  # None: all

    @classmethod
    def of(cls, chunk: Chunk, allowed: Allowed | None = None) -> Draw:
        """For the token after a chunk's last one."""
        request = chunk.sequence.request
        position = chunk.end - len(request.prompt_ids)
        return cls(request.sampling, position, chunk.sequence.token_ids, allowed)


def sample_chunks(logits: Tensor, chunks: Items[Chunk]) -> list[SampledToken]:
    """One token for each chunk that samples, whose logits [R, vocab] are given in their order."""
    allowed = allowed_tokens(chunks, logits.shape[-1])
    sampling = [chunk for chunk in chunks if chunk.samples]
    return sample(logits, [Draw.of(c, allowed.get(row)) for row, c in enumerate(sampling)])


def sample(logits: Tensor, draws: Items[Draw]) -> list[SampledToken]:
    """One token for each row of `logits` [R, vocab], float32."""
    ids: list[int] = logits.argmax(dim=-1).tolist()
    for row, draw in enumerate(draws):
        params = draw.params
        if params.temperature > 0 or params.shifts_logits or draw.allowed is not None:
            ids[row] = _draw(logits[row], draw)
    return [
        SampledToken(id_, logprobs_of(logits[row], id_, draw.params.logprobs))
        for row, (id_, draw) in enumerate(zip(ids, draws, strict=True))
    ]


def _draw(logits: Tensor, draw: Draw) -> int:
    params = draw.params
    if draw.allowed is not None:  # first of all: nothing that is added later brings a token back
        logits = logits.masked_fill(~torch.from_numpy(draw.allowed), -torch.inf)
    if params.shifts_logits:
        logits = shifted(logits, params, draw.token_ids, len(draw.token_ids) - draw.position)
    return _race(logits, draw) if params.temperature > 0 else int(logits.argmax())


def _race(logits: Tensor, draw: Draw) -> int:
    """The winner of an exponential race: P(i) = softmax(scores)[i].

    Each token runs with its own noise, so a rounding difference between two workers changes the
    outcome only where two tokens finish together; an inverse CDF would shift all behind it.
    """
    params = draw.params
    # Shifted first: a tiny temperature then drives the others to -inf, never the best to inf - inf.
    scores = (logits - logits.max()) / params.temperature
    scores = truncate(scores, params.top_k, params.top_p, params.min_p)
    return int((scores.double() - torch.from_numpy(noise(draw, len(scores)))).argmax())


def noise(draw: Draw, size: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Logarithms of standard exponential values: a function of (seed, choice, position).

    Philox is counter-based: equal keys give equal streams, different ones independent streams. In
    float64, since in float32 one value in 2**24 is zero, and wins whatever its probability.
    """
    bits = np.random.Philox(
        key=np.array([draw.params.seed, draw.params.choice], dtype=np.uint64),
        counter=np.array([0, 0, draw.position, 0], dtype=np.uint64),
    )
    uniform = np.random.Generator(bits).random(size)  # in [0, 1), multiples of 2**-53
    logarithms: np.ndarray[tuple[int], np.dtype[np.float64]]
    logarithms = np.log(-np.log1p(-uniform.clip(min=2.0**-54)))
    return logarithms


def truncate(scores: Tensor, top_k: int, top_p: float, min_p: float = 0.0) -> Tensor:
    """Scores [vocab] with -inf for what each rule drops of what the one before it left.

    First those less than `min_p` times as likely as the best (after Nguyen et al., "Turning Up the
    Heat", 2024), then all but the `top_k` best, then all outside the nucleus: the fewest best
    tokens of at least `top_p` probability. Tokens that tie with the last one stay in.
    """
    if min_p > 0:
        scores = scores.masked_fill(scores < scores.max() + math.log(min_p), -torch.inf)
    if 0 < top_k < len(scores):
        best = scores.topk(top_k).values
        scores = scores.masked_fill(scores < best[-1], -torch.inf)
    if top_p < 1:
        scores = scores.masked_fill(scores < _nucleus_edge(scores, top_p), -torch.inf)
    return scores


def _nucleus_edge(scores: Tensor, top_p: float) -> Tensor:
    """The lowest score in the nucleus."""
    total = scores.logsumexp(dim=-1)
    for candidates in (min(_NUCLEUS, len(scores)), len(scores)):
        best = scores.topk(candidates).values
        before = (best - total).exp().cumsum(dim=-1)
        inside = int((before < top_p).sum())  # all before the one that completes it
        if inside < candidates:
            return best[inside]
    return best[-1]


def logprobs_of(logits: Tensor, token_id: int, alternatives: int | None) -> TokenLogprobs | None:
    """Of a token drawn from a row [vocab]; None if no alternatives are asked for, not even 0."""
    if alternatives is None:
        return None
    logprobs = logits.log_softmax(dim=-1)
    top = logprobs.topk(min(alternatives, len(logprobs)))
    return TokenLogprobs(
        chosen=float(logprobs[token_id]),
        top=tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True)),
    )

"""How much memory a worker takes at most beside weights and KV cache.

The worst case is as many requests as there are slots, each as long as context and cache allow, with
20 logprobs a token and a client that reads none of them, in steps of the largest batch. Upper
bounds, not estimates: measured loads take about half.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..devices.torch import MOST_GATHERED

# Bytes: a token as an int in lists, its share of a block hash, its text, its unread logprobs.
STREAM_TOKEN = 320
_STREAM = 512 << 10  # bytes: a request's message, its largest batch of tokens on the way
_FIXED = 64 << 20  # bytes: threads, the tokenizer's caches, what allocators keep


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingLimits:
    """How much a worker may have to compute at once."""

    max_sequences: int
    max_batch_tokens: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """Numbers that a model has of one token, all layers alike."""

    hidden: int
    inner: int  # of the network, all experts that a token is sent to
    query: int  # of all heads
    key: int  # of all KV heads
    head_dim: int
    vocab: int
    itemsize: int  # bytes of an activation
    native: bool  # attention reads the cache where it lies; torch's gathers what it reads
    norms_after: bool = False  # what is added to the residual stream is kept to be normed


def working_memory(model: Widths, limits: ServingLimits, tokens: int) -> int:
    """Bytes, if no request is longer than `tokens`."""
    itemsize = model.itemsize
    width = model.query + 2 * model.key
    # The residual stream in float32; norms, projections and their quantized copies.
    row = 4 * model.hidden + itemsize * (2 * model.hidden + 5 * width + 4 * model.inner)
    row += 5 * (model.hidden + model.query + model.inner) // 4
    row += 4 * model.hidden if model.norms_after else 0
    rows = min(limits.max_batch_tokens, limits.max_sequences * tokens)
    step = rows * row
    if model.native:
        step += limits.threads * 48 * tokens  # scores and weights of 8 queries
    else:
        step += rows * tokens * (1 + 2 * itemsize)
        step += 2 * 8 * model.key * max(MOST_GATHERED, tokens)
    # Those of a step that is not read yet, too.
    logits = model.vocab * (8 * limits.max_sequences + 32 * (limits.threads + 1))
    rope = 8 * tokens * model.head_dim
    streams = limits.max_sequences * (_STREAM + tokens * STREAM_TOKEN)
    return step + logits + rope + streams + _FIXED

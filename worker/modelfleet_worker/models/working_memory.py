"""What a worker takes beside weights and KV cache, at most: the load that it admits, at its worst.

That is as many requests as there are slots, each as long as context and cache allow, with 20
logprobs a token and a client that reads none of them, in steps of the largest batch. Bounds, not
estimates: measured loads take about half.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..engine.paged_attention import MOST_GATHERED
from .config import LlamaConfig

STREAM_TOKEN = 320  # bytes: a token as an int in lists, its digest, its text, its unread logprobs
_STREAM = 512 << 10  # bytes: a request's message, its largest batch of tokens on the way
_ANYWAY = 64 << 20  # bytes: threads, the tokenizer's caches, what allocators keep


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a worker may have to do at once."""

    max_sequences: int
    max_batch_tokens: int
    threads: int


def working_memory(
    config: LlamaConfig, itemsize: int, load: Load, tokens: int, *, native: bool
) -> int:
    """Bytes, if no request is longer than `tokens`; activations have `itemsize` bytes.

    `native`: attention reads the cache where it lies. Torch's gathers what it reads, and masks.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    query, key = config.heads * config.head_dim, config.kv_heads * config.head_dim
    width = query + 2 * key
    # The residual stream in float32; norms, projections and their quantized copies.
    row = 4 * hidden + itemsize * (2 * hidden + 5 * width + 4 * inner)
    row += 5 * (hidden + query + inner) // 4
    step = min(load.max_batch_tokens, load.max_sequences * tokens) * row
    if native:
        step += load.threads * 48 * tokens  # scores and weights of 8 queries
    else:
        masked = min(load.max_batch_tokens, load.max_sequences * tokens) * tokens
        step += masked * (1 + 2 * itemsize) + 2 * 8 * key * max(MOST_GATHERED, tokens)
    logits = config.vocab_size * (load.max_sequences * (4 + itemsize) + 32 * (load.threads + 1))
    rope = 8 * tokens * config.head_dim
    streams = load.max_sequences * (_STREAM + tokens * STREAM_TOKEN)
    return step + logits + rope + streams + _ANYWAY

"""Log-probabilities of drawn tokens, from logits of the compiled step."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...engine.messages import TokenLogprobs


def logprobs_of(
    logits: np.ndarray[Any, np.dtype[np.float32]], token_id: int, alternatives: int
) -> TokenLogprobs:
    """Of a token drawn from a row [vocab], and of the likeliest ones."""
    shifted = logits - logits.max()
    logprobs = shifted - np.log(np.exp(shifted).sum(dtype=np.float64)).astype(np.float32)
    count = min(alternatives, len(logprobs))
    best = np.argpartition(logprobs, -count)[-count:] if count else np.empty(0, np.int64)
    best = best[np.lexsort((best, -logprobs[best]))]
    return TokenLogprobs(
        chosen=float(logprobs[token_id]),
        top=tuple(zip(best.tolist(), logprobs[best].tolist(), strict=True)),
    )

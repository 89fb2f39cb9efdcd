"""A product in float32 with a weight of fewer bits, without a float32 copy of that weight."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_SCRATCH = 4 << 20  # bytes of the weight that are converted at a time


def float32_product(x: Tensor, outputs: int, rows: Callable[[int, int], Tensor]) -> Tensor:
    """X [T, K] times the transposed weight [outputs, K], summed and kept in float32.

    `rows(first, end)` gives some of the weight's rows, of any type. torch has no product on CPUs
    that takes 16 bits and keeps its float32 sums.
    """
    x = x.float()
    step = max(1, _SCRATCH // (4 * x.shape[1]))
    out = torch.empty(len(x), outputs)
    scratch = torch.empty(min(step, outputs), x.shape[1])
    for first in range(0, outputs, step):
        end = min(first + step, outputs)
        torch.mm(x, scratch[: end - first].copy_(rows(first, end)).t(), out=out[:, first:end])
    return out

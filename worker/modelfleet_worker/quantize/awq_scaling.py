"""AWQ: makes the inputs that matter larger in the weights, and smaller in what comes before.

Lin et al., "AWQ: Activation-aware Weight Quantization" (arXiv 2306.00978), without its clipping.
A scale of an input is undone in the norm or the projection that computes it, so that the model
computes the same before rounding, and needs nothing at run time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..quantization.scheme import Scheme
from ..quantization.weights import quantize

_STEPS = 16  # of the exponent, from 0 (no scaling) to 1


def best_scales(weight: Tensor, hessian: Tensor, size: Tensor, scheme: Scheme) -> Tensor:
    """Scales [K] of the inputs of a weight [N, K] that let rounding change its outputs least.

    `hessian` is the sum of x xT over the inputs, `size` [K] their mean magnitude.
    """
    best, least = torch.ones_like(size), float("inf")
    for step in range(_STEPS):
        scales = size.clamp(min=1e-4).pow(step / _STEPS)
        scales /= (scales.max() * scales.min()).sqrt()
        change = quantize(weight * scales, scheme).dequantized() / scales - weight
        error = float(((change @ hessian) * change).sum())
        if error < least:
            best, least = scales, error
    return best

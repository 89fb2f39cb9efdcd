"""The canonical form of a quantized projection, and rounding to it. Plain torch.

Shapes: N outputs, K inputs, G groups of K / G inputs each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .coded_weight import CodedWeight
from .scheme import Scheme


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedWeight:
    """weight[n, order[k]] = (codes[n, k] - zeros[n, g]) * scales[n, g], where g is k's group.

    Every kernel of torch packs from this form. It lives only while a layer is loaded: a code takes
    a byte, whatever its bits.
    """

    bits: int  # 4 or 8; codes are in [-8, 7] or [-128, 127]
    codes: Tensor  # int8 [N, K]
    scales: Tensor  # float32 [N, G]
    zeros: Tensor | None = None  # int16 [N, G], whole steps of the same grid; None: all 0
    order: Tensor | None = None  # int64 [K], of inputs; None: as they come

    @classmethod
    def of(cls, stored: CodedWeight) -> QuantizedWeight:
        """The same, for torch's operations."""
        return cls(
            bits=stored.bits,
            codes=torch.from_numpy(stored.codes),
            scales=torch.from_numpy(stored.scales),
            zeros=None if stored.zeros is None else torch.from_numpy(stored.zeros),
            order=None if stored.order is None else torch.from_numpy(stored.order),
        )

    @property
    def outputs(self) -> int:
        """N."""
        return self.codes.shape[0]

    @property
    def inputs(self) -> int:
        """K."""
        return self.codes.shape[1]

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return self.inputs // self.scales.shape[1]

    def dequantized(self) -> Tensor:
        """The weights [N, K] in float32, inputs as they come."""
        steps = self.codes.view(self.outputs, -1, self.group).float()
        if self.zeros is not None:
            steps -= self.zeros[..., None]
        weight = (steps * self.scales[..., None]).view(self.outputs, self.inputs)
        if self.order is None:
            return weight
        return torch.empty_like(weight).index_copy_(1, self.order, weight)


def quantize(weight: Tensor, scheme: Scheme) -> QuantizedWeight:
    """Rounds a weight [N, K] to the nearest points of the scheme's grid.

    Scales are bfloat16's numbers, so that writing them to a checkpoint loses nothing.
    """
    outputs, inputs = weight.shape
    groups = weight.float().view(outputs, -1, scheme.group or inputs)
    low, high = -(2 ** (scheme.bits - 1)), 2 ** (scheme.bits - 1) - 1
    if scheme.symmetric:
        # -128 is left out, so that int8 products of two such numbers have equal ranges; of the 16
        # codes of int4 none can be spared.
        span = high if scheme.bits == 8 else high + 0.5
        scales = _nonzero(groups.abs().amax(-1) / span)
        codes = (groups / scales[..., None]).round_().clamp_(low, high)
        zeros = None
    else:
        # The grid holds zero: what is exactly zero stays so.
        least, most = groups.amin(-1).clamp_(max=0), groups.amax(-1).clamp_(min=0)
        scales = _nonzero((most - least) / (high - low))
        zeros = (low - least / scales).round_().clamp_(low, high)
        codes = (groups / scales[..., None]).round_().add_(zeros[..., None]).clamp_(low, high)
    return QuantizedWeight(
        bits=scheme.bits,
        codes=codes.to(torch.int8).view(outputs, inputs),
        scales=scales,
        zeros=None if zeros is None else zeros.to(torch.int16),
    )


def _nonzero(scales: Tensor) -> Tensor:
    rounded = scales.to(torch.bfloat16).float()
    return torch.where(rounded > 0, rounded, torch.ones_like(rounded))


def stacked(weights: Sequence[QuantizedWeight]) -> QuantizedWeight:
    """One projection whose outputs are those of `weights`, one after another."""
    first = weights[0]
    if len(weights) == 1:
        return first
    return QuantizedWeight(
        bits=first.bits,
        codes=torch.cat([w.codes for w in weights]),
        scales=torch.cat([w.scales for w in weights]),
        zeros=None
        if first.zeros is None
        else torch.cat([w.zeros for w in weights if w.zeros is not None]),
        order=first.order,
    )


def pack_nibbles(codes: Tensor) -> Tensor:
    """Codes of int4 [N, K], K even, as bytes uint8 [N, K / 2]: the first of two is the low half."""
    unsigned = (codes + 8).view(torch.uint8)
    return unsigned[:, 0::2] | (unsigned[:, 1::2] << 4)


def unpack_nibbles(packed: Tensor) -> Tensor:
    """The inverse of `pack_nibbles`."""
    halves = torch.stack((packed & 15, packed >> 4), dim=-1)
    return halves.view(torch.int8).flatten(1) - 8

"""Small integers in 32-bit words, as checkpoints pack them: the first is in the lowest bits."""

from __future__ import annotations

import torch
from torch import Tensor

WORD = 32


def unpack(words: Tensor, bits: int, dim: int) -> Tensor:
    """Words int32 as codes uint8 in [0, 2^bits), 32 / bits times as many along `dim`."""
    shifts = torch.arange(0, WORD, bits, dtype=torch.int32)
    codes: Tensor = (words.unsqueeze(dim + 1) >> _along(shifts, dim, words.dim())) & (2**bits - 1)
    return codes.to(torch.uint8).flatten(dim, dim + 1)


def pack(codes: Tensor, bits: int, dim: int) -> Tensor:
    """The inverse of `unpack`; the last word is filled with zeros."""
    each = WORD // bits
    missing = -codes.shape[dim] % each
    padding = [0, 0] * (codes.dim() - 1 - dim) + [0, missing]
    padded = torch.nn.functional.pad(codes.to(torch.int32), padding)
    shifts = torch.arange(0, WORD, bits, dtype=torch.int32)
    shape = padded.shape
    words = padded.reshape(*shape[:dim], -1, each, *shape[dim + 1 :])
    spread: Tensor = words << _along(shifts, dim, codes.dim())
    return spread.sum(dim + 1, dtype=torch.int32)


def _along(shifts: Tensor, dim: int, dims: int) -> Tensor:
    """Broadcast to a tensor that has one dimension more, behind `dim`."""
    return shifts.view([-1 if d == dim + 1 else 1 for d in range(dims + 1)])

"""Small integers in 32-bit words, as checkpoints pack them: the first is in the lowest bits."""

from __future__ import annotations

import numpy as np

from ..models.stored_tensor import Array

WORD = 32


def unpack(words: Array, bits: int, axis: int) -> Array:
    """Words int32 as codes uint8 in [0, 2^bits), 32 / bits times as many along `axis`."""
    each = WORD // bits
    unsigned, least = words.view(np.uint32), np.uint8(2**bits - 1)
    parts = [(unsigned >> np.uint32(i * bits)).astype(np.uint8) & least for i in range(each)]
    codes = np.stack(parts, axis + 1)
    return codes.reshape(*words.shape[:axis], -1, *words.shape[axis + 1 :])


def pack(codes: Array, bits: int, axis: int) -> Array:
    """The inverse of `unpack`, int32; the last word is filled with zeros."""
    each = WORD // bits
    size = codes.shape[axis]
    padding = [(0, -size % each if dim == axis else 0) for dim in range(codes.ndim)]
    padded = np.pad(codes.astype(np.uint32), padding)
    shape = (*codes.shape[:axis], -1, each, *codes.shape[axis + 1 :])
    spread = np.moveaxis(padded.reshape(shape), axis + 1, 0)
    words = sum((part << np.uint32(i * bits) for i, part in enumerate(spread)), np.uint32(0))
    return np.ascontiguousarray(words).view(np.int32)

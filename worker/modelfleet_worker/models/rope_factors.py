"""Cosines and sines of rope: of a whole context, or of tokens by the length of their sequence.

Imports no torch. Shapes: D rotated numbers of a head, T tokens. Everything is float32, as
transformers computes it, but for the powers and the cosines and sines: those are correctly rounded,
where torch is off by a unit in the last place now and then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .rope_config import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Rope,
    YarnScaling,
)

Array = np.ndarray[Any, Any]  # here: of float32

_ONE = np.float32(1)


def frequencies(rope: Rope, periods: Array | None = None) -> Array:
    """Radians per token, [D / 2], within the original context.

    `periods`: the powers of theta, if they were computed elsewhere.
    """
    scaling = rope.scaling
    if periods is None:
        periods = _powers(rope.dim, rope.theta)
    match scaling:
        case LongRopeScaling():
            return _ONE / (np.array(scaling.short_factor, np.float32) * periods)
        case YarnScaling():
            return _yarn(rope, scaling, periods)
    plain: Array = _ONE / periods
    match scaling:
        case LinearScaling():
            return plain / np.float32(scaling.factor)
        case Llama3Scaling():
            return np.array([scaling.scaled(float(f)) for f in plain], np.float32)
        case _:
            return plain


def _powers(dim: int, base: float | Array) -> Array:
    """[D / 2] of a base, [T, D / 2] of bases [T, 1]."""
    even = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    powers: Array = np.power(base, even.astype(np.float64))
    return powers.astype(np.float32)


def _yarn(rope: Rope, scaling: YarnScaling, periods: Array) -> Array:
    dim, base = rope.dim, rope.theta

    def dimension(turns: float) -> float:
        """Which one turns so often within the original context."""
        return (
            dim * math.log(scaling.original_context / (turns * 2 * math.pi)) / (2 * math.log(base))
        )

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    places = np.arange(dim // 2, dtype=np.float32)
    ramp = ((places - np.float32(low)) / np.float32(high - low)).clip(0, 1)
    kept = _ONE - ramp
    stretched = _ONE / (np.float32(scaling.factor) * periods)
    found: Array = stretched * (_ONE - kept) + _ONE / periods * kept
    return found


def attention_factor(rope: Rope) -> float:
    """What queries and keys are multiplied by."""
    scaling = rope.scaling
    if isinstance(scaling, YarnScaling | LongRopeScaling):
        return scaling.attention_factor
    return 1.0


def rope_factors(rope: Rope, context: int) -> tuple[Array, Array]:
    """Cosines and sines by which pair (i, i + D / 2) is rotated at each position, [context, D / 2].

    In float64: numpy's float32 is off by up to two units in the last place.
    """
    return _rotations(rope, np.arange(context), frequencies(rope))


def rope_factors_by_length(
    rope: Rope, positions: Sequence[int], reaches: Sequence[int]
) -> tuple[Array, Array]:
    """The same of tokens [T] whose sequences are `reaches` [T] long, [T, D / 2].

    Only of dynamic and longrope scaling, which look at the length.
    """
    lengths = np.array(reaches, np.float32)[:, None]
    match rope.scaling:
        case DynamicScaling(factor=factor, original_context=original):
            longer = np.maximum(lengths, np.float32(original))
            ratio = np.float32(factor) * longer / np.float32(original) - np.float32(factor - 1)
            bases = rope.theta * ratio ** (rope.dim / (rope.dim - 2))
            found = _ONE / _powers(rope.dim, bases.astype(np.float64))
        case LongRopeScaling(original_context=original) as scaling:
            short, long = (
                np.array(f, np.float32) for f in (scaling.short_factor, scaling.long_factor)
            )
            factors = np.where(lengths > original, long, short)
            found = _ONE / (factors * _powers(rope.dim, rope.theta))
        case _:
            raise TypeError(f"{rope} is the same for all lengths")
    return _rotations(rope, np.array(positions), found)


def _rotations(rope: Rope, positions: Array, found: Array) -> tuple[Array, Array]:
    """At positions [T], of frequencies [D / 2] or [T, D / 2]."""
    angles = (positions.astype(np.float32)[:, None] * found).astype(np.float64)
    factor = attention_factor(rope)
    return (
        (np.cos(angles) * factor).astype(np.float32),
        (np.sin(angles) * factor).astype(np.float32),
    )

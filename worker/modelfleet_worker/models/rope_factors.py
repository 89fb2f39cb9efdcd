"""Rope of a whole context, for models whose keys do not depend on the length. Imports no torch.

Shapes: D head_dim. Everything is float32, as transformers computes it, but for the powers and the
cosines and sines: those are correctly rounded, where torch is off by a unit in the last place now
and then.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .config import LlamaConfig
from .rope_config import LinearScaling, Llama3Scaling, LongRopeScaling, YarnScaling

Array = np.ndarray[Any, Any]  # here: of float32

_ONE = np.float32(1)


def frequencies(config: LlamaConfig, periods: Array | None = None) -> Array:
    """Radians per token, [D / 2], within the original context.

    `periods`: the powers of rope_theta, if they were computed elsewhere.
    """
    scaling = config.rope_scaling
    if periods is None:
        even = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
        periods = np.power(config.rope_theta, even.astype(np.float64)).astype(np.float32)
    match scaling:
        case LongRopeScaling():
            return _ONE / (np.array(scaling.short_factor, np.float32) * periods)
        case YarnScaling():
            return _yarn(config, scaling, periods)
    plain: Array = _ONE / periods
    match scaling:
        case LinearScaling():
            return plain / np.float32(scaling.factor)
        case Llama3Scaling():
            return np.array([scaling.scaled(float(f)) for f in plain], np.float32)
        case _:
            return plain


def _yarn(config: LlamaConfig, scaling: YarnScaling, periods: Array) -> Array:
    dim, base = config.head_dim, config.rope_theta

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


def attention_factor(config: LlamaConfig) -> float:
    """What queries and keys are multiplied by."""
    scaling = config.rope_scaling
    if isinstance(scaling, YarnScaling | LongRopeScaling):
        return scaling.attention_factor
    return 1.0


def rope_factors(config: LlamaConfig, context: int) -> tuple[Array, Array]:
    """Cosines and sines by which pair (i, i + D / 2) is rotated at each position, [context, D / 2].

    In float64: numpy's float32 is off by up to two units in the last place.
    """
    positions = np.arange(context, dtype=np.float32)[:, None]
    angles = (positions * frequencies(config)).astype(np.float64)
    factor = attention_factor(config)
    return (
        (np.cos(angles) * factor).astype(np.float32),
        (np.sin(angles) * factor).astype(np.float32),
    )

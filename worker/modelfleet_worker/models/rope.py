"""Rotary embeddings of our modules: frequencies, angles, and tables of cosines and sines.

Shapes: T tokens, D head_dim.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .config import LlamaConfig
from .rope_config import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    YarnScaling,
)


def frequencies(config: LlamaConfig, reaches: Tensor | None = None) -> Tensor:
    """Radians per token, [D/2]; [T, D/2] for tokens whose sequences are `reaches` [T] long.

    Only dynamic and longrope scalings look at the reach; without one it is the original context.
    """
    scaling = config.rope_scaling
    even = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    match scaling:
        case DynamicScaling() if reaches is not None:
            longer = reaches.clamp(min=scaling.original_context)[:, None]
            ratio = scaling.factor * longer / scaling.original_context - (scaling.factor - 1)
            base = config.rope_theta * ratio ** (config.head_dim / (config.head_dim - 2))
            return 1.0 / base**even
        case LongRopeScaling():
            short, long = (torch.tensor(f) for f in (scaling.short_factor, scaling.long_factor))
            factors = short
            if reaches is not None:
                factors = torch.where(reaches[:, None] > scaling.original_context, long, short)
            return 1.0 / (factors * config.rope_theta**even)
        case YarnScaling():
            return _yarn(config, scaling, even)
    plain = 1.0 / config.rope_theta**even
    match scaling:
        case LinearScaling():
            return plain / scaling.factor
        case Llama3Scaling():
            return torch.tensor([scaling.scaled(f) for f in plain.tolist()], dtype=torch.float32)
        case _:
            return plain


def _yarn(config: LlamaConfig, scaling: YarnScaling, even: Tensor) -> Tensor:
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
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    kept = 1 - ramp
    periods = base**even
    return 1.0 / (scaling.factor * periods) * (1 - kept) + 1.0 / periods * kept


def attention_factor(config: LlamaConfig) -> float:
    """What queries and keys are multiplied by."""
    scaling = config.rope_scaling
    if isinstance(scaling, YarnScaling | LongRopeScaling):
        return scaling.attention_factor
    return 1.0


def rope_factors(
    config: LlamaConfig, positions: Tensor, reaches: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines and sines by which pair (i, i + D/2) is rotated at each of positions [T], [T, D/2].

    `reaches` [T]: how long the sequence of each is, where that decides.
    """
    angles = positions.to(torch.float32)[:, None] * frequencies(config, reaches)
    factor = attention_factor(config)
    return angles.cos() * factor, angles.sin() * factor


def rotation(cos: Tensor, sin: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`rope_factors` as `llama.rotate` takes them: cosine and signed sine [T, 1, D]."""
    return (
        torch.cat((cos, cos), dim=-1).to(dtype)[:, None],
        torch.cat((-sin, sin), dim=-1).to(dtype)[:, None],
    )


def rope_tables(config: LlamaConfig, context: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`rotation` of every position in a context."""
    return rotation(*rope_factors(config, torch.arange(context)), dtype)

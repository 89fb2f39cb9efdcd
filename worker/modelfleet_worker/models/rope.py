"""Rotary embeddings of our modules: frequencies, angles, and tables of cosines and sines.

Shapes: T tokens, D head_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import rope_factors as whole
from .config import LlamaConfig
from .rope_config import DynamicScaling, LongRopeScaling


def frequencies(config: LlamaConfig, reaches: Tensor | None = None) -> Tensor:
    """Radians per token, [D/2]; [T, D/2] for tokens whose sequences are `reaches` [T] long.

    Only dynamic and longrope scalings look at the reach; without one it is the original context.
    """
    scaling = config.rope_scaling
    even = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    if reaches is None or not isinstance(scaling, DynamicScaling | LongRopeScaling):
        # Torch's powers are transformers' to the bit.
        return torch.from_numpy(whole.frequencies(config.rope, (config.rope_theta**even).numpy()))
    if isinstance(scaling, DynamicScaling):
        longer = reaches.clamp(min=scaling.original_context)[:, None]
        ratio = scaling.factor * longer / scaling.original_context - (scaling.factor - 1)
        base = config.rope_theta * ratio ** (config.head_dim / (config.head_dim - 2))
        return 1.0 / base**even
    short, long = (torch.tensor(f) for f in (scaling.short_factor, scaling.long_factor))
    factors = torch.where(reaches[:, None] > scaling.original_context, long, short)
    return 1.0 / (factors * config.rope_theta**even)


def rope_factors(
    config: LlamaConfig, positions: Tensor, reaches: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines and sines by which pair (i, i + D/2) is rotated at each of positions [T], [T, D/2].

    `reaches` [T]: how long the sequence of each is, where that decides.
    """
    angles = positions.to(torch.float32)[:, None] * frequencies(config, reaches)
    factor = whole.attention_factor(config.rope)
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

"""A decoder of transformers' modules on a flat batch of tokens, with our attention.

Shapes: T tokens of all sequences one after another, of which R are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..devices.torch.varied_attention import AttentionLayer
from ..engine.request import ContextVariants
from .interface import Serving, under_way
from .llama import Attention


class GenericModel:
    """A causal language model of transformers, and how its layers attend."""

    def __init__(
        self,
        module: nn.Module,
        layers: Sequence[AttentionLayer],
        dtype: torch.dtype,
        variants: ContextVariants | None = None,
    ) -> None:
        self.module, self.layers, self.dtype, self.variants = module, layers, dtype, variants

    def logits(
        self,
        ids: Tensor,
        positions: Tensor,
        attention: Attention,
        rows: Tensor,
        reaches: Tensor | None = None,
    ) -> Tensor:
        """Float32 logits [R, vocab] of the tokens `rows` [R] of ids [T]; positions [T].

        `reaches` [T]: the length by which each is computed, where the model has `variants`.
        """
        with under_way(Serving(attention, reaches)):
            return forward(self.module, ids, position_ids=positions[None], logits_to_keep=rows)


def forward(module: nn.Module, ids: Tensor, **options: Tensor) -> Tensor:
    """Float32 logits [T or R, vocab] of ids [T], by the attention that the module is set to."""
    out = module(input_ids=ids[None], use_cache=False, return_dict=True, **options)
    logits: Tensor = out.logits[0].float()
    return logits

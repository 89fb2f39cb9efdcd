"""A decoder of transformers' modules on a flat batch of tokens, with our attention.

Shapes: T tokens of all sequences one after another, of which R are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..engine.varied_attention import AttentionLayer
from .interface import Serving, under_way
from .llama import Attention


class GenericModel:
    """A causal language model of transformers, and how its layers attend."""

    def __init__(self, module: nn.Module, layers: Sequence[AttentionLayer]) -> None:
        self.module, self.layers = module, layers
        self.dtype = next(module.parameters()).dtype

    def logits(self, ids: Tensor, positions: Tensor, attention: Attention, rows: Tensor) -> Tensor:
        """Float32 logits [R, vocab] of the tokens `rows` [R] of ids [T]; positions [T]."""
        with under_way(Serving(attention)):
            return forward(self.module, ids, positions, rows)


def forward(module: nn.Module, ids: Tensor, positions: Tensor, rows: Tensor) -> Tensor:
    """Float32 logits [R, vocab] by the attention that the module is set to."""
    out = module(
        input_ids=ids[None],
        position_ids=positions[None],
        use_cache=False,
        logits_to_keep=rows,
        return_dict=True,
    )
    logits: Tensor = out.logits[0].float()
    return logits

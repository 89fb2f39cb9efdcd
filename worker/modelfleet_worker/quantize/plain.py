"""A model outside an engine: whole texts through it, one after another."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import NotOurModulesError
from ..loading.checkpoint import Checkpoint
from ..loading.expected_tensors import ExpectedTensors
from ..loading.model_builder import ModelBuilder
from ..loading.tied_head import with_stored_head
from ..models.config import LlamaConfig, read_config, read_json
from ..models.llama import Llama
from ..models.rope import rope_factors, rotation
from ..quantization.scheme import AS_STORED, Quantization
from ..quantization.stored import stored_format


class CausalAttention:
    """One sequence attends to nothing but itself; there is no cache."""

    def __init__(self, config: LlamaConfig) -> None:
        self._windows = config.windows

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The attention of query [T, H, D] to key and value [T, G, D], [T, H, D]."""
        q, k, v = (x[None].transpose(1, 2) for x in (query, key, value))
        tokens, window = len(query), self._windows[layer]
        seen = None
        if window is not None and window < tokens:
            back = torch.arange(tokens)[:, None] - torch.arange(tokens)
            seen = (back >= 0) & (back < window)
        out = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, is_causal=seen is None, enable_gqa=True
        )
        return out[0].transpose(0, 1)


def load_plain(
    folder: Path,
    quantization: Quantization = AS_STORED,
    *,
    dtype: torch.dtype = torch.float32,
    prepack: bool = True,
) -> Llama:
    """The model, quantized weights put back to `dtype`. Raises ModelError."""
    checkpoint = Checkpoint(folder)
    stored = stored_format(read_json(folder / "config.json"))
    config = with_stored_head(read_config(folder), checkpoint, stored)
    if not config.on_torch:
        raise NotOurModulesError(f"{folder} is of a family that only the compiled step computes")
    expected = ExpectedTensors(config, quantization, stored, checkpoint.names())
    builder = ModelBuilder(config, expected, dtype=dtype, kernel=None, prepack=prepack)
    for name, tensor in checkpoint.tensors():
        builder.add(name, tensor)
    return builder.build()


def rope(model: Llama, tokens: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine [tokens, 1, D] of the first positions, of a text of so many tokens."""
    factors = rope_factors(model.config, torch.arange(tokens), torch.full((tokens,), tokens))
    return rotation(*factors, model.norm.weight.dtype)


@torch.inference_mode()
def logits(model: Llama, ids: Tensor) -> Tensor:
    """Teacher-forced, float32 [T, vocab] of ids [T]."""
    cos, sin = rope(model, len(ids))
    out: Tensor = model(ids, cos, sin, CausalAttention(model.config), torch.arange(len(ids)))
    return out

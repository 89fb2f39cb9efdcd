"""A Llama-family model as the compiled step reads it. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...models.config import LlamaConfig
from ...models.rope_factors import rope_factors
from . import layouts
from .experts import NativeExperts
from .packed import Array, PackedLinear, PlainNumbers


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeLayer:
    """Norms, if there are such, and packed projections; a network or experts."""

    input_norm: PlainNumbers | None  # [hidden], before attention
    output_norm: PlainNumbers | None  # after its output projection
    network_norm: PlainNumbers | None  # before the network
    down_norm: PlainNumbers | None  # after its last projection
    query_norm: PlainNumbers | None  # [head_dim], or of all heads
    key_norm: PlainNumbers | None
    qkv: PackedLinear
    output: PackedLinear
    gate_up: PackedLinear | None
    down: PackedLinear | None
    experts: NativeExperts | None = None

    def struct(self, window: int | None, rope: tuple[Array, Array] | None) -> layouts.LayerStruct:
        """Points into this and the cosines and sines: they must live as long."""
        norms = {name: getattr(self, name) for name in _NORMS}
        projections = {name: getattr(self, name) for name in _PROJECTIONS}
        return layouts.LayerStruct(
            **{name: None if norm is None else norm.address for name, norm in norms.items()},
            **{
                n: layouts.LinearStruct() if p is None else p.struct for n, p in projections.items()
            },
            window=window or 0,
            cosines=None if rope is None else rope[0].ctypes.data,
            sines=None if rope is None else rope[1].ctypes.data,
            experts=None if self.experts is None else self.experts.address,
        )


_NORMS = ("input_norm", "output_norm", "network_norm", "down_norm", "query_norm", "key_norm")
_PROJECTIONS = ("qkv", "output", "gate_up", "down")


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeModel:
    """All weights of a model."""

    config: LlamaConfig
    embeddings: PlainNumbers  # [vocab, hidden]
    norm: PlainNumbers  # [hidden]
    layers: Sequence[NativeLayer]
    head: PackedLinear

    def struct(
        self, num_blocks: int, context_length: int, cache: Array, cache_scales: Array | None
    ) -> tuple[layouts.ModelStruct, object]:
        """For forward.cpp, and what must live as long as it is used, beside this and the cache.

        `context_length`: tokens whose cosines and sines are computed.
        """
        config, design = self.config, self.config.design
        tables = {
            rope: rope_factors(rope, context_length) for rope in {*config.ropes} if rope is not None
        }
        layers = (layouts.LayerStruct * len(self.layers))(
            *(
                layer.struct(window, None if rope is None else tables[rope])
                for layer, window, rope in zip(
                    self.layers, config.windows, config.ropes, strict=True
                )
            )
        )
        struct = layouts.ModelStruct(
            layers=config.layers,
            hidden=config.hidden_size,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            inner=config.dense_inner,
            vocab=config.vocab_size,
            blocks=num_blocks,
            rotary=config.rope.dim,
            activation=design.activation,
            whole_qk_norm=design.whole_qk_norm,
            centered=design.centered_norms,
            eps=config.norm_eps,
            norm_offset=design.norm_offset,
            embedding_scale=design.embedding_scale,
            residual_scale=design.residual_scale,
            attention_scale=_attention_scale(config),
            attention_cap=design.attention_softcap or 0,
            logit_scale=design.logit_scale,
            logit_cap=design.logit_softcap or 0,
            embeddings=self.embeddings.address,
            norm=self.norm.address,
            layer=layers,
            head=self.head.struct,
            cache=cache.ctypes.data,
            cache_scales=None if cache_scales is None else cache_scales.ctypes.data,
        )
        return struct, (tables, layers)


def _attention_scale(config: LlamaConfig) -> float:
    """In float32, in which scores are multiplied by it."""
    scale = config.design.attention_scale
    return float(1 / np.sqrt(np.float32(config.head_dim))) if scale is None else scale

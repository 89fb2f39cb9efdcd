"""A Llama-family model as the compiled step reads it. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...models.config import LlamaConfig
from ...models.rope_factors import rope_factors
from . import library
from .experts import NativeExperts
from .packed import Array, PackedLinear, PlainNumbers


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeLayer:
    """Norms [hidden] and [head_dim], and packed projections; a network or experts."""

    input_norm: PlainNumbers
    post_norm: PlainNumbers
    query_norm: PlainNumbers | None
    key_norm: PlainNumbers | None
    qkv: PackedLinear
    output: PackedLinear
    gate_up: PackedLinear | None
    down: PackedLinear | None
    experts: NativeExperts | None = None

    def struct(self, window: int | None) -> library.LayerStruct:
        """Points into this: it must live as long."""
        norms = {name: getattr(self, name) for name in _NORMS}
        projections = {name: getattr(self, name) for name in _PROJECTIONS}
        return library.LayerStruct(
            **{name: None if norm is None else norm.address for name, norm in norms.items()},
            **{n: library.LinearStruct() if p is None else p.struct for n, p in projections.items()},
            window=window or 0,
            experts=None if self.experts is None else self.experts.address,
        )


_NORMS = ("input_norm", "post_norm", "query_norm", "key_norm")
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
    ) -> tuple[library.ModelStruct, object]:
        """For forward.cpp, and what must live as long as it is used, beside this and the cache."""
        config = self.config
        cosines, sines = rope_factors(config, context_length)
        layers = (library.LayerStruct * len(self.layers))(
            *(
                layer.struct(window)
                for layer, window in zip(self.layers, config.windows, strict=True)
            )
        )
        struct = library.ModelStruct(
            layers=config.layers,
            hidden=config.hidden_size,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            inner=config.dense_inner,
            vocab=config.vocab_size,
            blocks=num_blocks,
            eps=config.norm_eps,
            embeddings=self.embeddings.address,
            norm=self.norm.address,
            cosines=cosines.ctypes.data,
            sines=sines.ctypes.data,
            layer=layers,
            head=self.head.struct,
            cache=cache.ctypes.data,
            cache_scales=None if cache_scales is None else cache_scales.ctypes.data,
        )
        return struct, (cosines, sines, layers)

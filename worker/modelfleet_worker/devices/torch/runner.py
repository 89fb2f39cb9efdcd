"""The CPU runner: a step's chunks become one flat batch through the model."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor
from typing_extensions import override

from ...engine.device import FinishedStep, Runner
from ...engine.request import ContextVariants
from ...engine.scheduler import Chunk
from ...models.llama import Attention, Llama
from ...models.rope import rope_factors, rope_tables, rotation
from ...models.rope_config import context_variants
from ...quantization.scheme import KVFormat
from .paged_attention import KVCache, LayerShape, PagedAttention, ordered
from .sampler import sample_chunks
from .varied_attention import AttentionLayer, VariedAttention


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatBatch:
    """A step's chunks, one after another; T tokens of which R sample."""

    chunks: Items[Chunk]  # in PagedAttention's order
    ids: Tensor  # [T]
    positions: Tensor  # [T], each token's place in its sequence
    rows: Tensor  # [R], of the tokens that sample, in the order of the step's chunks

    def reaches(self, variants: ContextVariants) -> Tensor:
        """The length by which each token is computed, [T]."""
        lengths = (variants.reaches(c.sequence, c.start, c.end) for c in self.chunks)
        return torch.tensor(list(chain.from_iterable(lengths)))

    @classmethod
    def of(cls, chunks: Items[Chunk]) -> FlatBatch:
        """From the chunks of a step, in any order."""
        order = ordered(chunks)
        batch = [chunks[i] for i in order]
        ids = list(chain.from_iterable(c.sequence.token_ids[c.start : c.end] for c in batch))
        return cls(
            chunks=batch,
            ids=torch.tensor(ids),
            positions=torch.tensor(list(chain.from_iterable(range(c.start, c.end) for c in batch))),
            rows=torch.tensor(_sampling_rows(chunks, order), dtype=torch.long),
        )


class TorchRunner(Runner):
    """Owns the model and its cache; computes the chunks that the scheduler chose."""

    def __init__(
        self,
        model: Llama,
        *,
        num_blocks: int,
        context_length: int,
        kv_cache: KVFormat = KVFormat.AUTO,
    ) -> None:
        config, dtype = model.config, model.norm.weight.dtype
        self.num_blocks = num_blocks
        self.model = model
        self.variants = context_variants(config.rope_scaling, context_length)
        self._dtype = dtype
        self._cos, self._sin = rope_tables(config, context_length, dtype)
        shape = LayerShape(
            kv_heads=config.kv_heads, key_dim=config.head_dim, value_dim=config.head_dim
        )
        self._cache = KVCache(
            [shape] * config.layers, num_blocks=num_blocks, dtype=dtype, kv_format=kv_cache
        )
        self._layers = [
            AttentionLayer(shape=shape, scale=None, window=window, softcap=None)
            for window in config.windows
        ]
        self._slides = any(w is not None and w < context_length for w in config.windows)

    @override
    @torch.inference_mode()
    def launch(self, chunks: Items[Chunk]) -> FinishedStep:
        """Computes the chunks; one token for each that samples, in their order."""
        logits = self.logits(chunks)
        return FinishedStep(sample_chunks(logits, chunks))

    @torch.inference_mode()
    def logits(self, chunks: Items[Chunk]) -> Tensor:
        """Float32 logits [R, vocab] of the chunks that sample."""
        batch = FlatBatch.of(chunks)
        logits: Tensor = self.model(
            batch.ids, *self._rope(batch), self._attention(batch), batch.rows
        )
        return logits

    def _attention(self, batch: FlatBatch) -> Attention:
        if self._slides:
            return VariedAttention(self._cache, self._layers, batch.chunks)
        return PagedAttention(self._cache, batch.chunks)

    def _rope(self, batch: FlatBatch) -> tuple[Tensor, Tensor]:
        if self.variants is None:
            return self._cos[batch.positions], self._sin[batch.positions]
        reaches = batch.reaches(self.variants)
        factors = rope_factors(self.model.config, batch.positions, reaches)
        return rotation(*factors, self._dtype)


def _sampling_rows(chunks: Items[Chunk], order: Items[int]) -> list[int]:
    """The row of the last token of each chunk that samples, in the order of `chunks`."""
    last: dict[int, int] = {}
    row = 0
    for i in order:
        row += chunks[i].num_scheduled_tokens
        last[i] = row - 1
    return [last[i] for i, chunk in enumerate(chunks) if chunk.samples]

"""The runner of models that transformers computes, with our cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from ...engine.device import FinishedStep, Runner
from ...engine.scheduler import Chunk
from ...models.generic import GenericModel
from ...quantization.scheme import KVFormat
from .paged_attention import KVCache
from .runner import FlatBatch
from .sampler import sample_chunks
from .varied_attention import VariedAttention


class GenericRunner(Runner):
    """Owns the model and its cache; computes the chunks that the scheduler chose."""

    def __init__(
        self, model: GenericModel, *, num_blocks: int, kv_cache: KVFormat = KVFormat.AUTO
    ) -> None:
        self.num_blocks = num_blocks
        self.model = model
        self.variants = model.variants
        shapes = [layer.shape for layer in model.layers]
        self._cache = KVCache(shapes, num_blocks=num_blocks, dtype=model.dtype, kv_format=kv_cache)

    @override
    @torch.inference_mode()
    def launch(self, chunks: Sequence[Chunk]) -> FinishedStep:
        """Computes the chunks; one token for each that samples, in their order."""
        logits = self.logits(chunks)
        return FinishedStep(sample_chunks(logits, chunks))

    @torch.inference_mode()
    def logits(self, chunks: Sequence[Chunk]) -> Tensor:
        """Float32 logits [R, vocab] of the chunks that sample."""
        batch = FlatBatch.of(chunks)
        return self.model.logits(
            batch.ids,
            batch.positions,
            VariedAttention(self._cache, self.model.layers, batch.chunks),
            batch.rows,
            batch.reaches(self.variants) if self.variants else None,
        )

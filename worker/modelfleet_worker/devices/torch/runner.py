"""The CPU runner: a step's chunks become one flat batch through the model."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor
from typing_extensions import override

from ...engine.device import FinishedStep, Runner
from ...engine.request import Request, Sequence
from ...engine.scheduler import BLOCK_SIZE, Chunk
from ...models.llama import Llama, rope_tables
from ...quantization.scheme import KVFormat
from .paged_attention import KVCache, LayerShape, PagedAttention, ordered
from .sampler import Draw, sample


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatBatch:
    """A step's chunks, one after another; T tokens of which R sample."""

    chunks: Items[Chunk]  # in PagedAttention's order
    ids: Tensor  # [T]
    positions: Tensor  # [T], each token's place in its sequence
    rows: Tensor  # [R], of the tokens that sample, in the order of the step's chunks

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
        self._cos, self._sin = rope_tables(config, context_length, dtype)
        shape = LayerShape(
            kv_heads=config.kv_heads, key_dim=config.head_dim, value_dim=config.head_dim
        )
        self._cache = KVCache(
            [shape] * config.layers, num_blocks=num_blocks, dtype=dtype, kv_format=kv_cache
        )

    @override
    @torch.inference_mode()
    def launch(self, chunks: Items[Chunk]) -> FinishedStep:
        """Computes the chunks; one token for each that samples, in their order."""
        batch = FlatBatch.of(chunks)
        logits = self.model(
            batch.ids,
            self._cos[batch.positions],
            self._sin[batch.positions],
            PagedAttention(self._cache, batch.chunks),
            batch.rows,
        )
        return FinishedStep(sample(logits, [Draw.of(c) for c in chunks if c.samples]))


def warm_up(runner: Runner, tokens: int) -> None:
    """One dummy prefill and decode, so that no first request waits for memory and kernels."""
    tokens = min(tokens, runner.num_blocks * BLOCK_SIZE - 1)
    dummy = Sequence(Request(request_id="warm-up", prompt_ids=(0,) * max(tokens, 1), max_tokens=1))
    dummy.block_table = list(range(runner.num_blocks))[: tokens // BLOCK_SIZE + 1]
    runner.execute([Chunk.of(dummy, tokens)])
    dummy.num_computed = max(tokens - 1, 0)
    runner.execute([Chunk.of(dummy, 1)])


def _sampling_rows(chunks: Items[Chunk], order: Items[int]) -> list[int]:
    """The row of the last token of each chunk that samples, in the order of `chunks`."""
    last: dict[int, int] = {}
    row = 0
    for i in order:
        row += chunks[i].num_scheduled_tokens
        last[i] = row - 1
    return [last[i] for i, chunk in enumerate(chunks) if chunk.samples]

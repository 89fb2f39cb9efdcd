"""The CPU runner: a step's chunks become one flat batch through the model."""

from __future__ import annotations

from collections.abc import Sequence as Items
from itertools import chain

import torch

from ..models.llama import Llama, rope_tables
from ..quantization.scheme import KVFormat
from .device import Runner, SampledToken
from .messages import Request
from .paged_attention import KVCache, PagedAttention, ordered
from .sampler import Draw, sample
from .scheduler import BLOCK_SIZE, Chunk
from .sequence import Sequence


class TorchRunner:
    """Owns the model and its cache; decides nothing about who runs."""

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
        self._cache = KVCache(
            layers=config.layers,
            num_blocks=num_blocks,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            dtype=dtype,
            kv_format=kv_cache,
        )

    @torch.inference_mode()
    def execute(self, chunks: Items[Chunk]) -> list[SampledToken]:
        """Computes the chunks; returns one token for each that samples, in their order."""
        order = ordered(chunks)
        batch = [chunks[i] for i in order]
        ids = list(chain.from_iterable(c.sequence.token_ids[c.start : c.end] for c in batch))
        positions = torch.tensor(list(chain.from_iterable(range(c.start, c.end) for c in batch)))
        rows = _sampling_rows(chunks, order)
        logits = self.model(
            torch.tensor(ids),
            self._cos[positions],
            self._sin[positions],
            PagedAttention(self._cache, batch),
            torch.tensor(rows, dtype=torch.long),
        )
        return sample(logits, [Draw.of(c.sequence) for c in chunks if c.samples])


def warm_up(runner: Runner, tokens: int) -> None:
    """Computes a prompt and a decode of nobody: the first request then finds all prepared."""
    tokens = min(tokens, runner.num_blocks * BLOCK_SIZE - 1)
    nobody = Sequence(Request(request_id="warm-up", prompt_ids=(0,) * max(tokens, 1), max_tokens=1))
    nobody.block_table = list(range(runner.num_blocks))[: tokens // BLOCK_SIZE + 1]
    runner.execute([Chunk.of(nobody, tokens)])
    nobody.num_computed = max(tokens - 1, 0)
    runner.execute([Chunk.of(nobody, 1)])


def _sampling_rows(chunks: Items[Chunk], order: Items[int]) -> list[int]:
    """The row of the last token of each chunk that samples, in the order of `chunks`."""
    last: dict[int, int] = {}
    row = 0
    for i in order:
        row += len(chunks[i])
        last[i] = row - 1
    return [last[i] for i, chunk in enumerate(chunks) if chunk.samples]

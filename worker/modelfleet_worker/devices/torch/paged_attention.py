"""Attention of one mixed batch over the paged KV cache, in plain torch on the CPU.

Shapes: T tokens of the batch, B decoding sequences, L tokens of context; H query heads, G KV heads,
D head_dim. A slot is a token's place in the cache: block * BLOCK_SIZE + offset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...engine.scheduler import BLOCK_SIZE, Chunk
from ...quantization.scheme import KVFormat
from . import MOST_GATHERED

Slots = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """What one layer stores of a token."""

    kv_heads: int
    key_dim: int
    value_dim: int

    def token_bytes(self, dtype: torch.dtype, kv_format: KVFormat) -> int:
        """Of a token's keys and values; in int8 each has a float32 scale."""
        numbers = self.key_dim + self.value_dim
        is_int8 = kv_format is KVFormat.INT8
        return self.kv_heads * (numbers + 2 * 4 if is_int8 else numbers * dtype.itemsize)


class KVCache:
    """Keys and values of every slot, for each layer [slots, G, D], perhaps as int8 with scales.

    Memory is zero and taken from the system only when it is first written. One more block at the
    end always stays zero: padding reads it, not what another request left there (0 * nan is nan).
    """

    def __init__(
        self,
        layers: Sequence[LayerShape],
        *,
        num_blocks: int,
        dtype: torch.dtype,
        kv_format: KVFormat = KVFormat.AUTO,
    ) -> None:
        self.padding_block = num_blocks
        self.dtype = dtype
        slots = (num_blocks + 1) * BLOCK_SIZE
        is_int8 = kv_format is KVFormat.INT8
        kept = torch.int8 if is_int8 else dtype
        sizes = ([x.key_dim for x in layers], [x.value_dim for x in layers])
        self._stores = [
            [_lazy_zeros((slots, x.kv_heads, n), kept) for x, n in zip(layers, part, strict=True)]
            for part in sizes
        ]
        self._scales = [
            [_lazy_zeros((slots, layer.kv_heads, 1), torch.float32) for layer in layers]
            for _ in (self._stores if is_int8 else ())
        ]

    def put(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Stores key and value [T, G, D] of a layer; returns them as they will be read."""
        if not self._scales:
            for store, new in zip(self._stores, (key, value), strict=True):
                store[layer].index_copy_(0, slots, new)
            return key, value
        for store, scales, new in zip(self._stores, self._scales, (key, value), strict=True):
            scale = new.float().abs().amax(dim=-1, keepdim=True) / 127
            codes = (new.float() / scale).nan_to_num(0.0).round_()  # a vector of zeros has scale 0
            store[layer].index_copy_(0, slots, codes.to(torch.int8))
            scales[layer].index_copy_(0, slots, scale)
        return self.get(layer, slots)

    def get(self, layer: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [n, G, D] of slots [n] of a layer."""
        key, value = (store[layer].index_select(0, slots) for store in self._stores)
        if self._scales:
            scales = (s[layer].index_select(0, slots) for s in self._scales)
            key, value = (
                x.mul(s).to(self.dtype) for x, s in zip((key, value), scales, strict=True)
            )
        return key, value


def _lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    # torch.zeros writes every page; numpy leaves the zeros to the system (calloc).
    bits = {1: np.int8, 2: np.int16, 4: np.int32}[dtype.itemsize]
    return torch.from_numpy(np.zeros(shape, bits)).view(dtype)


Cached = Callable[[Tensor], tuple[Tensor, Tensor]]  # keys and values of slots


class _Group(Protocol):
    """Some rows of the batch that are computed in one call."""

    rows: slice

    def attend(
        self, query: Tensor, new: tuple[Tensor, Tensor], cached: Cached, scale: float | None
    ) -> Tensor:
        """Attention of `query` [n, H, D], given the batch's own keys and values and the cache."""
        ...


@dataclass(frozen=True, slots=True)
class _Prompt(_Group):
    """The first chunk of one sequence: it attends to nothing but itself."""

    rows: slice

    def attend(
        self, query: Tensor, new: tuple[Tensor, Tensor], cached: Cached, scale: float | None
    ) -> Tensor:
        key, value = (x[None, self.rows].transpose(1, 2) for x in new)
        out = functional.scaled_dot_product_attention(
            query[None].transpose(1, 2), key, value, is_causal=True, enable_gqa=True, scale=scale
        )
        return out[0].transpose(0, 1)


@dataclass(frozen=True, slots=True)
class _Continuation(_Group):
    """A later chunk of one sequence: it attends to the cache, too."""

    rows: slice
    slots: Tensor  # [L]
    mask: Tensor  # [n, L], True is seen

    def attend(
        self, query: Tensor, new: tuple[Tensor, Tensor], cached: Cached, scale: float | None
    ) -> Tensor:
        key, value = (x[None].transpose(1, 2) for x in cached(self.slots))
        out = functional.scaled_dot_product_attention(
            query[None].transpose(1, 2),
            key,
            value,
            attn_mask=self.mask,
            enable_gqa=True,
            scale=scale,
        )
        return out[0].transpose(0, 1)


@dataclass(frozen=True, slots=True)
class _Decodes(_Group):
    """Single tokens of sequences of similar length; the heads of a KV head are its queries."""

    rows: slice
    slots: Tensor  # [B * L], padded with slots that stay zero
    mask: Tensor  # [B, 1, 1, L], 0 or -inf

    def attend(
        self, query: Tensor, new: tuple[Tensor, Tensor], cached: Cached, scale: float | None
    ) -> Tensor:
        batch, heads, head_dim = query.shape
        kv_heads = new[0].shape[1]
        key, value = (x.view(batch, -1, *x.shape[1:]).transpose(1, 2) for x in cached(self.slots))
        grouped = query.view(batch, kv_heads, heads // kv_heads, head_dim)
        out = functional.scaled_dot_product_attention(
            grouped, key, value, attn_mask=self.mask, scale=scale
        )
        return out.reshape(batch, heads, -1)


class PagedAttention:
    """The batch of one step: `chunks`, with all single tokens first, in order of their length."""

    def __init__(self, cache: KVCache, chunks: Sequence[Chunk]) -> None:
        self._cache = cache
        self._groups: list[_Group] = []
        row = 0
        for run in _similar_decodes(chunks):
            self._groups.append(self._decodes(row, run))
            row += len(run)
        for chunk in chunks[row:]:
            self._groups.append(self._prefill(row, chunk))
            row += chunk.num_scheduled_tokens
        self._new_slots = torch.from_numpy(
            np.concatenate([slots_of(chunk, chunk.start, chunk.end) for chunk in chunks])
        )

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None
    ) -> Tensor:
        """Stores key and value [T, G, D]; returns the attention of query [T, H, D], [T, H, D].

        `scale` multiplies the scores; None: 1 / sqrt(D).
        """
        new, cached = self.store(layer, key, value)
        outs = [g.attend(query[g.rows], new, cached, scale) for g in self._groups]
        return outs[0] if len(outs) == 1 else torch.cat(outs)

    def store(self, layer: int, key: Tensor, value: Tensor) -> tuple[tuple[Tensor, Tensor], Cached]:
        """Puts key and value [T, G, D] into their slots; returns them and all as they are read."""
        new = self._cache.put(layer, self._new_slots, key, value)
        return new, partial(self._cache.get, layer)

    def _prefill(self, row: int, chunk: Chunk) -> _Group:
        rows = slice(row, row + chunk.num_scheduled_tokens)
        if chunk.start == 0:
            return _Prompt(rows)
        seen = torch.ones(chunk.num_scheduled_tokens, chunk.end, dtype=torch.bool).tril(chunk.start)
        return _Continuation(rows, torch.from_numpy(slots_of(chunk, 0, chunk.end)), seen)

    def _decodes(self, row: int, chunks: Sequence[Chunk]) -> _Group:
        lengths = np.array([chunk.end for chunk in chunks])
        longest = int(lengths.max())
        tables = np.full((len(chunks), -(-longest // BLOCK_SIZE)), self._cache.padding_block)
        for i, chunk in enumerate(chunks):
            needed = -(-chunk.end // BLOCK_SIZE)
            tables[i, :needed] = chunk.sequence.block_table[:needed]
        slots = (tables[:, :, None] * BLOCK_SIZE + np.arange(BLOCK_SIZE)).reshape(len(chunks), -1)
        beyond = np.arange(longest) >= lengths[:, None]
        slots = np.where(beyond, self._cache.padding_block * BLOCK_SIZE, slots[:, :longest])
        mask = torch.zeros(beyond.shape, dtype=self._cache.dtype)
        mask.masked_fill_(torch.from_numpy(beyond), -torch.inf)
        return _Decodes(
            slice(row, row + len(chunks)),
            torch.from_numpy(slots.reshape(-1)),
            mask[:, None, None],
        )


def slots_of(chunk: Chunk, start: int, end: int) -> Slots:
    """The slots of a sequence's tokens from `start` to `end`."""
    first = start // BLOCK_SIZE
    table = np.array(chunk.sequence.block_table[first : -(-end // BLOCK_SIZE)], dtype=np.int64)
    slots = (table[:, None] * BLOCK_SIZE + np.arange(BLOCK_SIZE)).reshape(-1)
    return slots[start - first * BLOCK_SIZE : end - first * BLOCK_SIZE]


def ordered(chunks: Sequence[Chunk]) -> list[int]:
    """The indices of `chunks` in PagedAttention's order: decodes by length, then prefills."""
    return sorted(
        range(len(chunks)), key=lambda i: (chunks[i].num_scheduled_tokens > 1, chunks[i].end)
    )


def _similar_decodes(chunks: Sequence[Chunk]) -> Iterator[Sequence[Chunk]]:
    """Runs of single tokens whose padding to the longest at most doubles the work."""
    start = 0
    for i, chunk in enumerate(chunks):
        if chunk.num_scheduled_tokens > 1:
            break
        longer = chunk.end > 2 * max(chunks[start].end, 64)  # tiny ones are cheaper together
        # Shared prefixes are gathered once for each: a group must not take more than some memory.
        if longer or (i > start and (i - start + 1) * chunk.end > MOST_GATHERED):
            yield chunks[start:i]
            start = i
    else:
        i = len(chunks)
    if i > start:
        yield chunks[start:i]

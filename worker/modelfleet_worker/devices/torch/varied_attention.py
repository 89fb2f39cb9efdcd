"""Paged attention whose layers differ: scale, sliding window, capped scores.

Shapes as in paged_attention.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ...engine.scheduler import Chunk
from .paged_attention import KVCache, LayerShape, PagedAttention, slots_of

_ROWS = 128  # queries whose capped scores are held at once: [H, 128, L] in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLayer:
    """How one layer of a model attends."""

    shape: LayerShape
    scale: float | None  # of the scores; None: 1 / sqrt(D)
    window: int | None  # the last tokens that a token sees, itself included; None: all
    softcap: float | None  # scores become softcap * tanh(score / softcap)


@dataclass(frozen=True, slots=True)
class _View:
    """What one chunk sees through a window."""

    rows: slice
    slots: Tensor  # [L]
    seen: Tensor  # [n, L]


class VariedAttention:
    """The batch of one step, as PagedAttention; plain layers are computed by it."""

    def __init__(
        self, cache: KVCache, layers: Sequence[AttentionLayer], chunks: Sequence[Chunk]
    ) -> None:
        self._paged, self._layers, self._chunks = PagedAttention(cache, chunks), layers, chunks
        self._longest = max(chunk.end for chunk in chunks)
        self._views: dict[int | None, list[_View]] = {}  # by window: layers share them

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Stores key and value [T, G, D]; returns the attention of query [T, H, D], [T, H, D]."""
        how = self._layers[layer]
        slides = how.window is not None and how.window < self._longest
        if not slides and how.softcap is None:
            return self._paged.attend(layer, query, key, value, scale=how.scale)
        _, cached = self._paged.store(layer, key, value)
        window = how.window if slides else None
        if window not in self._views:
            self._views[window] = list(self._view(window))
        outs = []
        for view in self._views[window]:
            k, v = (x.transpose(0, 1) for x in cached(view.slots))
            q = query[view.rows].transpose(0, 1)
            outs.append(_attention(q, k, v, view.seen, how).transpose(0, 1))
        return torch.cat(outs)

    def _view(self, window: int | None) -> Iterator[_View]:
        row = 0
        for chunk in self._chunks:
            first = 0 if window is None else max(0, chunk.start - window + 1)
            slots = torch.from_numpy(slots_of(chunk, first, chunk.end))
            back = torch.arange(chunk.start, chunk.end)[:, None] - torch.arange(first, chunk.end)
            seen = back >= 0 if window is None else (back >= 0) & (back < window)
            yield _View(slice(row, row + chunk.num_scheduled_tokens), slots, seen)
            row += chunk.num_scheduled_tokens


def _attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, how: AttentionLayer) -> Tensor:
    """Of q [H, n, D] to k and v [G, L, D], [H, n, D]."""
    if how.softcap is None:
        out = functional.scaled_dot_product_attention(
            q[None], k[None], v[None], attn_mask=seen, scale=how.scale, enable_gqa=True
        )
        return out[0]
    scale = q.shape[-1] ** -0.5 if how.scale is None else how.scale
    q = q.reshape(len(k), -1, *q.shape[1:])  # [G, H / G, n, D]
    k, v = k[:, None], v[:, None]
    outs = []
    for rows, visible in zip(torch.split(q, _ROWS, dim=2), torch.split(seen, _ROWS), strict=True):
        scores = torch.tanh(rows @ k.transpose(-1, -2) * scale / how.softcap) * how.softcap
        scores = scores.masked_fill(~visible, -torch.inf)
        outs.append(torch.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype) @ v)
    return torch.cat(outs, dim=2).flatten(0, 1)

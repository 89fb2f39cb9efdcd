"""An encoder on torch's operations, in float32: where the compiled one cannot be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from ...engine.embedding import Encoder, Ids, Vector
from ...models.encoder import EncoderConfig, Function, Pooling
from ...models.encoder_weights import Affine, EncoderLayer, EncoderWeights

_ROWS = 16  # sequences that are padded together


class TorchEncoder(Encoder):
    """Sequences are computed with those of about their length, so that little of it is padding."""

    def __init__(self, config: EncoderConfig, weights: EncoderWeights, *, threads: int) -> None:
        torch.set_num_threads(threads)
        self._config = config
        self._words, self._positions = map(torch.from_numpy, (weights.words, weights.positions))
        self._norm = _tensors(weights.norm)
        self._layers = [_Layer(layer) for layer in weights.layers]

    @override
    def encode(self, sequences: Sequence[Ids]) -> list[Vector]:
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        vectors: dict[int, Vector] = {}
        with torch.inference_mode():
            for start in range(0, len(order), _ROWS):
                some = order[start : start + _ROWS]
                rows = self._encode([sequences[i] for i in some]).numpy().astype("<f4")
                vectors |= {i: row.tobytes() for i, row in zip(some, rows, strict=True)}
        return [vectors[i] for i in range(len(sequences))]

    def _encode(self, sequences: Sequence[Ids]) -> Tensor:
        """[S, hidden]."""
        config = self._config
        longest = max(map(len, sequences))
        ids = np.zeros((len(sequences), longest), np.int64)
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        for row, sequence in zip(ids, sequences, strict=True):
            row[: len(sequence)] = sequence
        mask = torch.arange(longest)[None] < lengths[:, None]  # [S, T]
        x = self._words[torch.from_numpy(ids)] + self._positions[:longest]
        x = self._normed(x, self._norm)
        for layer in self._layers:
            x = self._normed(x + self._attended(x, layer, mask), layer.attention_norm)
            inner = functional.linear(x, *layer.up)
            x = self._normed(
                x + functional.linear(self._function(inner), *layer.down), layer.network_norm
            )
        pooled = self._pooled(x, mask, lengths)
        return functional.normalize(pooled, dim=-1) if config.normalize else pooled

    def _normed(self, x: Tensor, norm: tuple[Tensor, Tensor]) -> Tensor:
        config = self._config
        return functional.layer_norm(x, (config.hidden_size,), *norm, eps=config.norm_eps)

    def _attended(self, x: Tensor, layer: _Layer, mask: Tensor) -> Tensor:
        heads = self._config.heads
        q, k, v = (
            part.view(*part.shape[:2], heads, -1).transpose(1, 2)
            for part in functional.linear(x, *layer.qkv).chunk(3, dim=-1)
        )
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        return functional.linear(out.transpose(1, 2).flatten(-2), *layer.output)

    def _function(self, x: Tensor) -> Tensor:
        match self._config.function:
            case Function.GELU:
                return functional.gelu(x)
            case Function.GELU_TANH:
                return functional.gelu(x, approximate="tanh")
            case Function.RELU:
                return functional.relu(x)

    def _pooled(self, x: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
        seen = mask[..., None]
        match self._config.pooling:
            case Pooling.CLS:
                return x[:, 0]
            case Pooling.MAX:
                return x.masked_fill(~seen, -torch.inf).amax(1)
            case Pooling.MEAN:
                return (x * seen).sum(1) / lengths[:, None]
            case Pooling.MEAN_SQRT:
                return (x * seen).sum(1) / lengths[:, None].sqrt()


class _Layer:
    """A layer's tensors, those of queries, keys and values in one."""

    def __init__(self, layer: EncoderLayer) -> None:
        parts = (layer.query, layer.key, layer.value)
        weight = np.concatenate([part.weight for part in parts])
        bias = np.concatenate([part.bias for part in parts])
        self.qkv = _tensors(Affine(weight, bias))
        self.output, self.up, self.down = map(_tensors, (layer.output, layer.up, layer.down))
        self.attention_norm = _tensors(layer.attention_norm)
        self.network_norm = _tensors(layer.network_norm)


def _tensors(affine: Affine) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(affine.weight), torch.from_numpy(affine.bias)

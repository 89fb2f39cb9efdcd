"""The tensors of a BERT encoder by name, and their shapes. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from .encoder import EncoderConfig

Array = np.ndarray[Any, Any]

_PREFIX: Final = "bert."  # of checkpoints with a head


@dataclass(frozen=True, slots=True)
class Affine:
    """A projection or a norm."""

    weight: Array  # float32 [outputs, inputs], of a norm [hidden]
    bias: Array  # float32 [outputs]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderLayer:
    """One layer, in the order in which it computes."""

    query: Affine
    key: Affine
    value: Affine
    output: Affine
    attention_norm: Affine
    up: Affine
    down: Affine
    network_norm: Affine


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderWeights:
    """All of an encoder, in float32."""

    words: Array  # [vocab, hidden]
    positions: Array  # [positions, hidden], with the type of a first text added
    norm: Affine
    layers: tuple[EncoderLayer, ...]


_LAYER: Final = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "network_norm": "output.LayerNorm",
}


def expected_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Of all tensors that are read, without a checkpoint's prefix."""
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocab_size, hidden),
        "embeddings.position_embeddings.weight": (config.positions, hidden),
        "embeddings.token_type_embeddings.weight": (config.types, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
    }
    sizes = {"up": (inner, hidden), "down": (hidden, inner)}
    sizes |= dict.fromkeys(("query", "key", "value", "output"), (hidden, hidden))
    for layer in range(config.layers):
        for part, name in _LAYER.items():
            size = sizes.get(part, (hidden,))
            shapes[f"encoder.layer.{layer}.{name}.weight"] = size
            shapes[f"encoder.layer.{layer}.{name}.bias"] = size[:1]
    return shapes


def own_name(name: str) -> str:
    """A tensor's name without a checkpoint's prefix."""
    return name.removeprefix(_PREFIX)


def build_weights(config: EncoderConfig, tensors: Mapping[str, Array]) -> EncoderWeights:
    """Of tensors that have the expected shapes."""

    def affine(name: str) -> Affine:
        return Affine(tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    first_type = tensors["embeddings.token_type_embeddings.weight"][0]
    return EncoderWeights(
        words=tensors["embeddings.word_embeddings.weight"],
        positions=tensors["embeddings.position_embeddings.weight"] + first_type,
        norm=affine("embeddings.LayerNorm"),
        layers=tuple(
            EncoderLayer(
                **{part: affine(f"encoder.layer.{layer}.{name}") for part, name in _LAYER.items()}
            )
            for layer in range(config.layers)
        ),
    )

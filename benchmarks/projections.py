"""The matrix products of a Llama-like model: how many bytes a step reads, how much it computes."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

HEAD = "lm_head"
EMBEDDING = "model.embed_tokens"

Shape = tuple[int, int]  # outputs, inputs


def projections(folder: str) -> dict[str, Shape]:
    """By module, the head too: with tied embeddings it is the embedding."""
    shapes = {}
    for file in Path(folder).glob("*.safetensors"):
        with file.open("rb") as tensors:
            (size,) = struct.unpack("<Q", tensors.read(8))
            for name, tensor in json.loads(tensors.read(size)).items():
                if len(tensor.get("shape", ())) == 2:
                    outputs, inputs = tensor["shape"]
                    shapes[name.removesuffix(".weight")] = (outputs, inputs)
    embedding = shapes.pop(EMBEDDING)
    return {HEAD: embedding} | shapes


def weight_bytes(folder: str, bytes_per_weight: Callable[[str, int], float]) -> int:
    """Read for each decoding step; the function gets a module and its inputs."""
    return round(
        sum(
            outputs * inputs * bytes_per_weight(module, inputs)
            for module, (outputs, inputs) in projections(folder).items()
        )
    )


def operations(folder: str, prompt_tokens: int, new_tokens: int) -> int:
    """Of one answer, in its matrix products; attention left out. The head sees new tokens only."""
    shapes = projections(folder)
    head = shapes.pop(HEAD)
    layers = sum(outputs * inputs for outputs, inputs in shapes.values())
    # The last new token is never computed with.
    return 2 * (layers * (prompt_tokens + new_tokens - 1) + head[0] * head[1] * new_tokens)

"""What families of models do that Llama does not. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum, StrEnum

from .rope_config import Rope


class Activation(IntEnum):
    """Of the network's gate; the numbers are those of activations.h."""

    SILU = 0
    GELU = 1  # by the error function
    GELU_TANH = 2
    RELU = 3


# By transformers' names.
ACTIVATIONS = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu": Activation.GELU,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "gelu_new": Activation.GELU_TANH,
    "relu": Activation.RELU,
}


class Norms(StrEnum):
    """Where the norms of a layer stand: around attention, and likewise around the network."""

    BEFORE = "before"
    AFTER = "after"  # of what is added to the residual stream
    BOTH = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """How a model computes; the defaults are Llama's."""

    activation: Activation = Activation.SILU
    norms: Norms = Norms.BEFORE
    norm_offset: float = 0.0  # added to the weights of all norms
    norm_weights: bool = True  # else they are 1
    centered_norms: bool = False  # the mean is taken off
    whole_qk_norm: bool = False  # over all heads of a query or key together, not over each
    fused: bool = False  # checkpoints have one tensor for query, key and value, one for gate and up
    embedding_scale: float = 1.0
    residual_scale: float = 1.0  # of what attention and network add
    attention_scale: float | None = None  # None: one over the root of head_dim
    attention_softcap: float | None = None
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    ropes: tuple[Rope | None, ...] = ()  # of each layer, None: not rotated; (): all alike
    rotary_dim: int | None = None  # the first numbers of a head, which are rotated; None: all
    recomputes: bool = False  # all keys anew where longrope's long factors begin

    def __str__(self) -> str:
        """What is not as in Llama; a field that is added to this class changes no other one's."""
        found = ((f.name, getattr(self, f.name), f.default) for f in fields(self))
        return " ".join(f"{name}={value}" for name, value, default in found if value != default)


LLAMA = Design()

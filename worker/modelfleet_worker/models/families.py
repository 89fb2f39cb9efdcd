"""The families that our own modules and the compiled step compute: one row each. Imports no torch.

A row is what transformers 5.23 knows of an architecture beside its config.json: which fields it
reads, what it takes for those that are left out, and what its modules do. To add a family is to add
a row; a column is added where one does what none did before (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from .design import Norms
from .experts import GRANITE_MOE, MIXTRAL, OLMOE, QWEN2_MOE, QWEN3_MOE, ExpertRules

# Always, never, or as the first of these fields says that is there; none is: no.
Bias = bool | tuple[str, ...]


class QKNorm(StrEnum):
    """Of queries and keys, before they are rotated."""

    NONE = "none"
    HEAD = "head"
    WHOLE = "whole"  # over all heads together


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Which layers attend to the last `sliding_window` tokens only.

    Where `layer_types` is read, it says so. Else all layers do, or those that a rule below names.
    """

    default: int | None  # tokens, where sliding_window is left out
    switch: str | None = None  # a flag without which no layer does
    reads_types: bool = False
    first: str | None = None  # the field that names the first layer that does
    every: int | None = None  # each so many-th layer does not
    every_field: str | None = None  # which may say another number
    without_rope: bool = False  # the layers that are not rotated do


@dataclass(frozen=True, slots=True, kw_only=True)
class Ropes:
    """How the layers are rotated."""

    theta: float = 10000.0  # where rope_theta is left out
    # Layers with a window have their own, unscaled one in old files: its theta and theta's field.
    local_theta: float | None = None
    local_field: str | None = None
    partial: bool = False  # partial_rotary_factor is read
    original_context: int | None = None  # where original_max_position_embeddings is left out
    renamed: Mapping[str, str] = field(default_factory=dict)  # types, to those that they mean
    recomputes: bool = False
    # A list of 1 for each layer that is rotated; and how often one is not, where it is left out.
    rotated: str | None = None
    interval: tuple[str, int] = ("", 0)
    windows_only: bool = False  # where there are windows, layers without one are not rotated


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A row of the table. A text is the name of a field of config.json."""

    defaults: Mapping[str, int] = field(default_factory=dict)  # where they are not Llama's
    norm_eps: float = 1e-6
    eps_field: str | None = "rms_norm_eps"
    tied: bool = False
    strict: bool = False  # a wrong field is an error; else transformers' modules are asked

    activation: str = "hidden_act"
    activation_default: str = "silu"
    activations: Mapping[str, str] = field(default_factory=dict)  # names, to those that they mean

    qkv_bias: Bias = False
    output_bias: Bias = False
    mlp_bias: Bias = False
    equal_biases: bool = False  # those of query, key and value, and all others
    fused: bool = False

    norms: Norms = Norms.BEFORE
    norm_offset: float = 0.0
    norm_weights: bool = True
    centered_norms: bool = False
    qk_norm: QKNorm = QKNorm.NONE

    windows: Windows | None = None
    ropes: Ropes = Ropes()

    root_embeddings: bool = False  # they are multiplied by the root of hidden_size
    embedding_scale: str | None = None
    residual_scale: str | None = None
    attention_scale: str | None = None
    query_scalar: tuple[str, int] | None = None  # scores are divided by its root
    logit_divisor: str | None = None
    attention_softcap: tuple[str, float | None] | None = None
    logit_softcap: tuple[str, float | None] | None = None

    experts: ExpertRules | None = None

    unless: tuple[str, ...] = ()  # fields: if one says something, only transformers computes it


_ATTENTION: Final = ("attention_bias",)
_QWEN_WINDOWS: Final = Windows(
    default=4096, switch="use_sliding_window", reads_types=True, first="max_window_layers"
)
_FAMILIES: Final = {
    "LlamaForCausalLM": Family(
        strict=True, qkv_bias=_ATTENTION, output_bias=_ATTENTION, mlp_bias=("mlp_bias",)
    ),
    "InternLM3ForCausalLM": Family(
        strict=True,
        defaults={"num_key_value_heads": 2, "head_dim": 128},
        norm_eps=1e-5,
        qkv_bias=("attention_bias", "qkv_bias"),
        output_bias=("mlp_bias", "bias"),
        mlp_bias=("mlp_bias", "bias"),
        equal_biases=True,
    ),
    "MistralForCausalLM": Family(
        strict=True, defaults={"num_key_value_heads": 8}, windows=Windows(default=4096)
    ),
    "MinistralForCausalLM": Family(
        defaults={"num_key_value_heads": 8}, windows=Windows(default=4096, reads_types=True)
    ),
    "Qwen2ForCausalLM": Family(
        strict=True, defaults={"num_key_value_heads": 32}, qkv_bias=True, windows=_QWEN_WINDOWS
    ),
    "Qwen3ForCausalLM": Family(
        strict=True,
        defaults={"num_key_value_heads": 32, "head_dim": 128},
        qkv_bias=_ATTENTION,
        output_bias=_ATTENTION,
        qk_norm=QKNorm.HEAD,
        windows=_QWEN_WINDOWS,
    ),
    "GemmaForCausalLM": Family(
        defaults={"num_key_value_heads": 16, "head_dim": 256},
        tied=True,
        activation_default="gelu_pytorch_tanh",
        activations={"gelu": "gelu_pytorch_tanh"},  # the first files say so, and mean the other
        qkv_bias=_ATTENTION,
        output_bias=_ATTENTION,
        norm_offset=1.0,
        root_embeddings=True,
        unless=("use_bidirectional_attention",),
    ),
    "Gemma2ForCausalLM": Family(
        defaults={"num_key_value_heads": 4, "head_dim": 256},
        tied=True,
        activation="hidden_activation",
        activation_default="gelu_pytorch_tanh",
        qkv_bias=_ATTENTION,
        output_bias=_ATTENTION,
        norms=Norms.BOTH,
        norm_offset=1.0,
        windows=Windows(default=4096, reads_types=True, every=2),
        root_embeddings=True,
        query_scalar=("query_pre_attn_scalar", 256),
        attention_softcap=("attn_logit_softcapping", 50.0),
        logit_softcap=("final_logit_softcapping", 30.0),
        unless=("use_bidirectional_attention",),
    ),
    "Gemma3ForCausalLM": Family(  # which does not read attn_logit_softcapping
        defaults={"num_key_value_heads": 4, "head_dim": 256},
        tied=True,
        activation="hidden_activation",
        activation_default="gelu_pytorch_tanh",
        qkv_bias=_ATTENTION,
        output_bias=_ATTENTION,
        norms=Norms.BOTH,
        norm_offset=1.0,
        qk_norm=QKNorm.HEAD,
        windows=Windows(
            default=4096, reads_types=True, every=6, every_field="sliding_window_pattern"
        ),
        ropes=Ropes(theta=1e6, local_theta=1e4, local_field="rope_local_base_freq"),
        root_embeddings=True,
        query_scalar=("query_pre_attn_scalar", 256),
        logit_softcap=("final_logit_softcapping", None),
        unless=("use_bidirectional_attention",),
    ),
    "Phi3ForCausalLM": Family(
        norm_eps=1e-5,
        fused=True,
        windows=Windows(default=None),
        ropes=Ropes(
            partial=True,
            original_context=4096,
            renamed={"su": "longrope", "yarn": "longrope"},
            recomputes=True,
        ),
    ),
    "SmolLM3ForCausalLM": Family(
        defaults={"num_key_value_heads": 4},
        tied=True,
        qkv_bias=_ATTENTION,
        output_bias=_ATTENTION,
        mlp_bias=("mlp_bias",),
        windows=Windows(
            default=None, switch="use_sliding_window", reads_types=True, without_rope=True
        ),
        ropes=Ropes(theta=2e6, rotated="no_rope_layers", interval=("no_rope_layer_interval", 4)),
    ),
    "GraniteForCausalLM": Family(
        qkv_bias=_ATTENTION,
        output_bias=_ATTENTION,
        mlp_bias=("mlp_bias",),
        embedding_scale="embedding_multiplier",
        residual_scale="residual_multiplier",
        attention_scale="attention_multiplier",
        logit_divisor="logits_scaling",
    ),
    "OlmoForCausalLM": Family(
        norm_eps=1e-5,
        eps_field=None,
        qkv_bias=_ATTENTION,
        output_bias=_ATTENTION,
        norm_weights=False,
        centered_norms=True,
        unless=("clip_qkv",),
    ),
    "Olmo2ForCausalLM": Family(
        norm_eps=1e-5,
        qkv_bias=_ATTENTION,
        output_bias=_ATTENTION,
        norms=Norms.AFTER,
        qk_norm=QKNorm.WHOLE,
    ),
    "Olmo3ForCausalLM": Family(
        norm_eps=1e-5,
        qkv_bias=_ATTENTION,
        output_bias=_ATTENTION,
        norms=Norms.AFTER,
        qk_norm=QKNorm.WHOLE,
        windows=Windows(default=4096, reads_types=True, every=4),
        ropes=Ropes(theta=5e5, local_theta=5e5),
    ),
    "Exaone4ForCausalLM": Family(
        defaults={"num_key_value_heads": 32},
        norm_eps=1e-5,
        norms=Norms.AFTER,
        qk_norm=QKNorm.HEAD,
        windows=Windows(
            default=4096, reads_types=True, every=4, every_field="sliding_window_pattern"
        ),
        ropes=Ropes(windows_only=True),
    ),
    "MixtralForCausalLM": Family(
        defaults={"num_key_value_heads": 8},
        norm_eps=1e-5,
        windows=Windows(default=None),
        ropes=Ropes(theta=1e6),
        experts=MIXTRAL,
    ),
    "Qwen2MoeForCausalLM": Family(
        defaults={"num_key_value_heads": 16},
        qkv_bias=True,
        experts=QWEN2_MOE,
        unless=("use_sliding_window",),
    ),
    "Qwen3MoeForCausalLM": Family(
        defaults={"num_key_value_heads": 4},
        qkv_bias=_ATTENTION,
        output_bias=_ATTENTION,
        qk_norm=QKNorm.HEAD,
        windows=Windows(default=4096, switch="use_sliding_window"),
        experts=QWEN3_MOE,
    ),
    "OlmoeForCausalLM": Family(
        norm_eps=1e-5,
        qkv_bias=_ATTENTION,
        output_bias=_ATTENTION,
        qk_norm=QKNorm.WHOLE,
        experts=OLMOE,
        unless=("clip_qkv", "sliding_window"),
    ),
    "GraniteMoeForCausalLM": Family(
        qkv_bias=_ATTENTION,
        output_bias=_ATTENTION,
        embedding_scale="embedding_multiplier",
        residual_scale="residual_multiplier",
        attention_scale="attention_multiplier",
        logit_divisor="logits_scaling",
        experts=GRANITE_MOE,
    ),
}
FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(_FAMILIES)

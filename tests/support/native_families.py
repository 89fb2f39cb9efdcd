"""Tiny random models of the families that only the compiled step computes beside transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    Exaone4Config,
    Exaone4ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MinistralConfig,
    MinistralForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Olmo3Config,
    Olmo3ForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from modelfleet_worker.devices.native.runner import NativeRunner
from modelfleet_worker.engine.device import LoadedModel
from modelfleet_worker.loading.loader import load_model
from quantized_models import asked

VOCAB = 97
WINDOW = 21  # of the models that slide; prompts of tests are longer
ORIGINAL = 32  # tokens that ropes are stretched from
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "pad_token_id": 0,
}
SLIDES = ["sliding_attention", "full_attention", "sliding_attention"]
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 8.0,
    "original_max_position_embeddings": ORIGINAL,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 8.0}


def longrope(half: int) -> dict[str, Any]:
    """`half`: of the numbers that are rotated."""
    return {
        "rope_type": "longrope",
        "rope_theta": 500.0,
        "short_factor": [1.0 + 0.1 * i for i in range(half)],
        "long_factor": [2.0 + 0.5 * i for i in range(half)],
        "attention_factor": 1.1,
        "original_max_position_embeddings": ORIGINAL,
    }


def phi3(**changes: Any) -> Phi3ForCausalLM:
    return Phi3ForCausalLM(Phi3Config(**{**SIZES, **changes}))


# Half of a head of 64 is what a rotation takes.
HALF_ROTATED = {
    "hidden_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
}


# One of each row of the table, beside those of test_native_step.py; and what a field may change.
MODELS = {
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**SIZES)),
    "gemma 2": lambda: Gemma2ForCausalLM(
        Gemma2Config(
            **SIZES,
            sliding_window=WINDOW,
            query_pre_attn_scalar=24,
            attn_logit_softcapping=2.0,  # low enough to be felt
            final_logit_softcapping=3.0,
        )
    ),
    "gemma 3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **SIZES,
            sliding_window=WINDOW,
            layer_types=SLIDES,
            query_pre_attn_scalar=24,
            rope_parameters={
                "full_attention": LINEAR,
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        )
    ),
    "phi 3": lambda: phi3(sliding_window=WINDOW),
    "phi 3, partly rotated": lambda: phi3(
        **HALF_ROTATED,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.5,
        },
    ),
    "smollm3": lambda: SmolLM3ForCausalLM(
        SmolLM3Config(**SIZES, no_rope_layers=[1, 0, 1], use_sliding_window=False)
    ),
    "smollm3, without rope it slides": lambda: SmolLM3ForCausalLM(
        SmolLM3Config(
            **SIZES, no_rope_layer_interval=2, use_sliding_window=True, sliding_window=WINDOW
        )
    ),
    "granite": lambda: GraniteForCausalLM(
        GraniteConfig(
            **SIZES,
            embedding_multiplier=12.0,
            attention_multiplier=0.3,
            residual_multiplier=0.22,
            logits_scaling=8.0,
            attention_bias=True,
            mlp_bias=True,
        )
    ),
    "olmo": lambda: OlmoForCausalLM(OlmoConfig(**SIZES)),
    "olmo 2": lambda: Olmo2ForCausalLM(Olmo2Config(**SIZES, attention_bias=True)),
    "olmo 3": lambda: Olmo3ForCausalLM(
        Olmo3Config(
            **SIZES,
            sliding_window=WINDOW,
            layer_types=SLIDES,
            rope_parameters={
                "full_attention": YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        )
    ),
    "exaone 4": lambda: Exaone4ForCausalLM(
        Exaone4Config(**SIZES, sliding_window=WINDOW, layer_types=SLIDES)
    ),
    "ministral": lambda: MinistralForCausalLM(
        MinistralConfig(**SIZES, sliding_window=WINDOW, layer_types=SLIDES)
    ),
    "gelu": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, hidden_act="gelu")),
    "gelu by tanh": lambda: MistralForCausalLM(
        MistralConfig(**SIZES, hidden_act="gelu_pytorch_tanh", sliding_window=WINDOW)
    ),
    "relu": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, hidden_act="relu")),
}
# Whose keys depend on the length of their sequence.
BY_LENGTH = {
    "llama, dynamic": lambda: LlamaForCausalLM(
        LlamaConfig(**{**SIZES, "max_position_embeddings": ORIGINAL}, rope_parameters=DYNAMIC)
    ),
    "llama, longrope": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=longrope(16))),
    "phi 3, longrope": lambda: phi3(
        **HALF_ROTATED,
        rope_parameters={**longrope(16), "partial_rotary_factor": 0.5},
        original_max_position_embeddings=ORIGINAL,
    ),
}


def saved(name: str, folder: Path, *, noise: float = 0.05, **how: Any) -> PreTrainedModel:
    """The model of transformers, always the same, its weights as bfloat16 holds them."""
    torch.manual_seed(len(name))
    model = {**MODELS, **BY_LENGTH}[name]().eval()
    for parameter in model.parameters():  # biases and norms are constants otherwise
        parameter.data += noise * torch.randn_like(parameter)
        parameter.data = parameter.data.to(torch.bfloat16).float()
    model.save_pretrained(folder, **how)
    model.set_attn_implementation("eager")
    return model


def load(
    folder: Path, weights: str = "none", dtype: str = "BFloat16", **changes: Any
) -> LoadedModel:
    kv_cache = {"kv_cache": changes.pop("kv_cache")} if "kv_cache" in changes else {}
    return load_model(
        folder,
        dtype=dtype,
        quantization=asked(weights, **kv_cache),
        kv_cache_bytes=32 << 20,
        max_sequences=32,
        max_batch_tokens=256,
        **{"progress": lambda *_: None, **changes},
    )


def native(loaded: LoadedModel) -> NativeRunner:
    assert isinstance(loaded.runner, NativeRunner)
    return loaded.runner

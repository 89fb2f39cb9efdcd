"""What config.json may say about experts, beside what transformers reads in it."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import (
    GraniteMoeConfig,
    MixtralConfig,
    OlmoeConfig,
    PreTrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from modelfleet_worker.errors import NotOurModulesError
from modelfleet_worker.models.config import parse_config

CONFIGS = {
    "MixtralForCausalLM": MixtralConfig,
    "Qwen2MoeForCausalLM": Qwen2MoeConfig,
    "Qwen3MoeForCausalLM": Qwen3MoeConfig,
    "OlmoeForCausalLM": OlmoeConfig,
    "GraniteMoeForCausalLM": GraniteMoeConfig,
}


def raw(architecture: str, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "architectures": [architecture],
        "vocab_size": 100,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 16,
        "max_position_embeddings": 512,
    }
    return {**fields, **changes}


def first(config: PreTrainedConfig, *names: str) -> Any:
    return next(getattr(config, name) for name in names if hasattr(config, name))


@pytest.mark.parametrize("architecture", CONFIGS)
def test_what_is_left_out_is_what_transformers_takes(architecture: str):
    said = raw(architecture)
    ours, theirs = parse_config(said), CONFIGS[architecture].from_dict(said)
    assert ours.experts is not None
    assert ours.experts.count == first(theirs, "num_local_experts", "num_experts")
    assert ours.experts.chosen == theirs.num_experts_per_tok
    assert ours.experts.inner == first(theirs, "moe_intermediate_size", "intermediate_size")
    assert ours.experts.shared_inner == getattr(theirs, "shared_expert_intermediate_size", None)
    # Those without the field always normalize.
    assert ours.experts.normalized == getattr(theirs, "norm_topk_prob", True)
    assert ours.experts.layers == (True,) * 4
    assert ours.kv_heads == theirs.num_key_value_heads
    assert ours.norm_eps == theirs.rms_norm_eps
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert ours.windows == (None,) * 4
    assert not ours.on_torch


def test_what_is_said_counts():
    config = parse_config(
        raw(
            "Qwen2MoeForCausalLM",
            num_experts=6,
            num_experts_per_tok=3,
            moe_intermediate_size=32,
            shared_expert_intermediate_size=96,
            norm_topk_prob=True,
            decoder_sparse_step=2,
            mlp_only_layers=[3],
        )
    )
    experts = config.experts
    assert experts is not None
    assert (experts.count, experts.chosen, experts.inner, experts.shared_inner) == (6, 3, 32, 96)
    assert experts.normalized
    assert experts.layers == (False, True, False, False)
    assert experts.taken_inner == 3 * 32 + 96
    assert config.inner_sizes == (128, 32, 96)
    assert config.taken_inner == 192


@pytest.mark.parametrize("changes", [{"num_experts": 0}, {"mlp_only_layers": [0, 1, 2, 3]}])
def test_a_model_without_any_experts_is_a_dense_one(changes: dict[str, Any]):
    config = parse_config(raw("Qwen3MoeForCausalLM", **changes))
    assert config.experts is None
    assert config.on_torch


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("MixtralForCausalLM", {"num_experts_per_tok": 9}, "9 of 8 experts at once"),
        ("MixtralForCausalLM", {"num_experts": 4, "num_local_experts": 6}, "differ"),
        ("MixtralForCausalLM", {"num_local_experts": 2**15}, "32768 experts in 4 layers"),
        ("MixtralForCausalLM", {"hidden_act": "gelu"}, "silu only"),
        ("Qwen2MoeForCausalLM", {"qkv_bias": False}, "qkv_bias is off"),
        ("Qwen2MoeForCausalLM", {"use_sliding_window": True}, "use_sliding_window is True"),
        ("Qwen3MoeForCausalLM", {"mlp_only_layers": "all"}, "a list of layers is expected"),
        ("OlmoeForCausalLM", {"clip_qkv": 8.0}, "clip_qkv is 8.0"),
    ],
)
def test_what_the_table_does_not_know_is_left_to_transformers(
    architecture: str, changes: dict[str, Any], message: str
):
    with pytest.raises(NotOurModulesError, match=message):
        parse_config(raw(architecture, **changes))

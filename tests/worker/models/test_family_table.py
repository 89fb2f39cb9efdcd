"""The rows of the table of families against transformers' own configs."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from transformers import PretrainedConfig

from modelfleet_worker.errors import NotOurModulesError
from modelfleet_worker.models.config import LlamaConfig, parse_config
from modelfleet_worker.models.design import LLAMA, Activation, Design, Norms
from modelfleet_worker.models.families import FAMILIES
from modelfleet_worker.models.rope_config import LinearScaling, LongRopeScaling, Rope, YarnScaling

# Nothing that has a default in transformers' configs, but for the size.
SIZE: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 768,
    "intermediate_size": 128,
    "num_hidden_layers": 8,
    "num_attention_heads": 32,
    "max_position_embeddings": 512,
}
CONFIGS = {
    name: getattr(transformers, name.replace("ForCausalLM", "Config"), None) for name in FAMILIES
}
CONFIGS["Gemma3ForCausalLM"] = transformers.Gemma3TextConfig
CONFIGS["InternLM3ForCausalLM"] = transformers.CONFIG_MAPPING["internlm3"]


def parsed(architecture: str, **changes: Any) -> LlamaConfig:
    return parse_config({"architectures": [architecture], **SIZE, **changes})


def windows(theirs: PretrainedConfig) -> tuple[int | None, ...]:
    """Of each layer, as the models of transformers read their config."""
    window = getattr(theirs, "sliding_window", None)
    kinds = getattr(theirs, "layer_types", None)
    if kinds is None:
        return (window,) * SIZE["num_hidden_layers"]
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_what_is_left_out_is_what_transformers_takes(architecture: str):
    ours, theirs = parsed(architecture), CONFIGS[architecture](**SIZE)
    head_dim = getattr(theirs, "head_dim", None) or 768 // 32
    assert (ours.kv_heads, ours.head_dim) == (theirs.num_key_value_heads, head_dim)
    assert ours.norm_eps == getattr(theirs, "rms_norm_eps", 1e-5)
    assert ours.tied_embeddings == theirs.tie_word_embeddings
    assert ours.windows == windows(theirs)
    ropes = theirs.rope_parameters
    kinds = getattr(theirs, "layer_types", None) or ["full_attention"] * 8
    expected = [ropes.get(kind, ropes) for kind in kinds]
    rotated = getattr(theirs, "no_rope_layers", [1] * 8)
    if architecture == "Exaone4ForCausalLM":
        rotated = [kind == "sliding_attention" for kind in kinds]
    assert [rope and rope.theta for rope in ours.ropes] == [
        rope["rope_theta"] if is_rotated else None
        for rope, is_rotated in zip(expected, rotated, strict=True)
    ]
    for field, name in (
        ("logit_softcap", "final_logit_softcapping"),
        ("attention_softcap", "attn_logit_softcapping"),
        ("embedding_scale", "embedding_multiplier"),
        ("residual_scale", "residual_multiplier"),
        ("attention_scale", "attention_multiplier"),
    ):
        if hasattr(theirs, name):
            assert getattr(ours.design, field) == getattr(theirs, name)


@pytest.mark.parametrize(
    ("architecture", "changes", "design"),
    [
        ("LlamaForCausalLM", {}, LLAMA),
        ("Qwen3ForCausalLM", {"hidden_act": "swish"}, LLAMA),
        ("LlamaForCausalLM", {"hidden_act": "gelu"}, Design(activation=Activation.GELU)),
        ("Olmo2ForCausalLM", {}, Design(norms=Norms.AFTER, whole_qk_norm=True)),
        ("Phi3ForCausalLM", {}, Design(fused=True, recomputes=True)),
        (
            "GemmaForCausalLM",
            {"hidden_size": 3072, "hidden_act": "gelu"},  # 55.4256, which is 55.5 in bfloat16
            Design(activation=Activation.GELU_TANH, norm_offset=1.0, embedding_scale=55.5),
        ),
        (
            "Gemma2ForCausalLM",
            {"hidden_size": 256, "query_pre_attn_scalar": 64, "final_logit_softcapping": None},
            Design(
                activation=Activation.GELU_TANH,
                norms=Norms.BOTH,
                norm_offset=1.0,
                embedding_scale=16.0,
                attention_scale=0.125,
                attention_softcap=50.0,
            ),
        ),
        (
            "GraniteForCausalLM",
            {
                "embedding_multiplier": 12,
                "residual_multiplier": 0.25,
                "attention_multiplier": 0.0625,
                "logits_scaling": 8,
            },
            Design(
                embedding_scale=12.0, residual_scale=0.25, attention_scale=0.0625, logit_scale=0.125
            ),
        ),
    ],
)
def test_how_a_family_computes(architecture: str, changes: dict[str, Any], design: Design):
    config = parsed(architecture, **changes)
    assert config.design == design
    assert config.on_torch == (design == LLAMA)


FULL, LOCAL = (
    Rope(theta=1e6, scaling=LinearScaling(factor=8.0), dim=32),
    Rope(theta=1e4, scaling=None, dim=32),
)


@pytest.mark.parametrize(
    "rope",
    [
        pytest.param(
            {
                "rope_theta": 1e6,
                "rope_local_base_freq": 1e4,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            },
            id="transformers 4",
        ),
        pytest.param(
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                }
            },
            id="transformers 5",
        ),
    ],
)
def test_gemma_3_has_two_ropes_and_the_context_that_it_says(rope: dict[str, Any]):
    config = parsed("Gemma3ForCausalLM", head_dim=32, sliding_window_pattern=3, **rope)
    assert config.ropes == (LOCAL, LOCAL, FULL, LOCAL, LOCAL, FULL, LOCAL, LOCAL)
    assert config.windows == (4096, 4096, None, 4096, 4096, None, 4096, 4096)
    assert config.max_context == 512


def test_olmo_3_stretches_the_layers_that_see_all():
    rope = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}
    config = parsed("Olmo3ForCausalLM", rope_theta=2e5, rope_scaling=rope)
    thetas = [rope and (rope.theta, isinstance(rope.scaling, YarnScaling)) for rope in config.ropes]
    assert thetas == [(5e5, False), (5e5, False), (5e5, False), (2e5, True)] * 2


def test_phi_3_rotates_a_part_of_each_head_by_one_of_two_ropes():
    rope = {"type": "su", "short_factor": [1.0] * 9, "long_factor": [2.0] * 9}
    config = parsed("Phi3ForCausalLM", rope_scaling=rope, partial_rotary_factor=0.75)
    assert config.rope.dim == 18
    assert isinstance(config.rope_scaling, LongRopeScaling)
    assert config.rope_scaling.original_context == 4096


def test_smollm3_leaves_layers_unrotated():
    config = parsed("SmolLM3ForCausalLM", no_rope_layers=[1, 0] * 4)
    assert [rope is not None for rope in config.ropes] == [True, False] * 4


def test_exaone_4_rotates_the_layers_with_windows_if_there_are_any():
    rotated = [rope is not None for rope in parsed("Exaone4ForCausalLM").ropes]
    assert rotated == [True, True, True, False] * 2
    without = parsed("Exaone4ForCausalLM", sliding_window=None)
    assert without.ropes == (without.rope,) * 8


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("GemmaForCausalLM", {"use_bidirectional_attention": True}),
        ("Gemma2ForCausalLM", {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}),
        ("Gemma3ForCausalLM", {"rope_parameters": {"rope_theta": 1e4}}),
        ("Gemma3ForCausalLM", {"rope_scaling": {"type": "linear", "factor": 8.0}}),
        ("Gemma3ForCausalLM", {"layer_types": ["chunked_attention"] * 8}),
        ("Olmo3ForCausalLM", {"sliding_window": None, "layer_types": ["sliding_attention"] * 8}),
        ("Olmo3ForCausalLM", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
        ("GraniteForCausalLM", {"logits_scaling": 0}),
        ("GraniteForCausalLM", {"partial_rotary_factor": 0.5}),
        ("SmolLM3ForCausalLM", {"no_rope_layers": [1, 0]}),
        ("Phi3ForCausalLM", {"hidden_size": "768"}),
    ],
    ids=str,
)
def test_transformers_is_asked_about_what_the_table_does_not_know(
    architecture: str, changes: dict[str, Any]
):
    with pytest.raises(NotOurModulesError):
        parsed(architecture, **changes)


def test_what_digests_are_made_of_is_as_in_older_versions():
    """A stream resumes on a worker of another version if its model has the same digest."""
    assert repr(parsed("LlamaForCausalLM")) == (
        "LlamaConfig(vocab_size=100, hidden_size=768, intermediate_size=128, layers=8, heads=32,"
        " kv_heads=32, head_dim=24, norm_eps=1e-06, rope_theta=10000.0, rope_scaling=None,"
        " tied_embeddings=False, qkv_bias=False, output_bias=False, mlp_bias=False,"
        " qk_norm=False, windows=(None, None, None, None, None, None, None, None),"
        " max_context=512)"
    )
    assert str(parsed("Olmo2ForCausalLM").design) == "norms=after whole_qk_norm=True"

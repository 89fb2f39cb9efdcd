"""What config.json may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelfleet_worker.errors import ModelError
from modelfleet_worker.models.config import eos_token_ids, parse_config, read_config
from modelfleet_worker.models.rope_config import Llama3Scaling, YarnScaling


def raw(architecture: str = "LlamaForCausalLM", **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "architectures": [architecture],
        "vocab_size": 100,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
    }
    return {**fields, **changes}


@pytest.mark.parametrize(
    "rope",
    [
        pytest.param({"rope_theta": 5e5}, id="transformers 4"),
        pytest.param({"rope_theta": 5e5, "rope_scaling": None}, id="transformers 4, no scaling"),
        pytest.param(
            {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, id="transformers 5"
        ),
    ],
)
def test_reads_the_rope_of_both_config_formats(rope: dict[str, Any]):
    config = parse_config(raw(**rope))
    assert (config.rope_theta, config.rope_scaling) == (5e5, None)


@pytest.mark.parametrize("kind", ["rope_type", "type"])
def test_reads_llama3_scaling_of_the_older_format(kind: str):
    scaling = {
        kind: "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = parse_config(raw(rope_theta=5e5, rope_scaling=scaling))
    assert config.rope_theta == 5e5
    assert config.rope_scaling == Llama3Scaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192
    )


QWEN = {"sliding_window": 128, "use_sliding_window": True}


@pytest.mark.parametrize(
    ("architecture", "changes", "windows"),
    [
        ("MistralForCausalLM", {"sliding_window": 128}, (128, 128)),
        ("MistralForCausalLM", {"sliding_window": None}, (None, None)),
        ("MistralForCausalLM", {}, (4096, 4096)),
        ("LlamaForCausalLM", {"sliding_window": 128}, (None, None)),
        ("Qwen2ForCausalLM", {"sliding_window": 128}, (None, None)),
        ("Qwen2ForCausalLM", QWEN, (None, None)),
        ("Qwen2ForCausalLM", {**QWEN, "max_window_layers": 2}, (None, None)),
        ("Qwen2ForCausalLM", {**QWEN, "max_window_layers": 1}, (None, 128)),
        ("Qwen3ForCausalLM", {**QWEN, "max_window_layers": 0}, (128, 128)),
        (
            "Qwen3ForCausalLM",
            {**QWEN, "layer_types": ["sliding_attention", "full_attention"]},
            (128, None),
        ),
    ],
)
def test_a_window_is_the_attentions_and_not_the_contexts(
    architecture: str, changes: dict[str, Any], windows: tuple[int | None, ...]
):
    config = parse_config(raw(architecture, num_key_value_heads=2, **changes))
    assert (config.windows, config.max_context) == (windows, 512)


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        ({"type": "linear", "factor": 4.0}, 2048),
        ({"type": "dynamic", "factor": 4.0}, 2048),
        ({"type": "yarn", "factor": 4.0}, 2048),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}, 1024),
    ],
    ids=str,
)
def test_the_context_is_what_the_rope_is_stretched_to(rope: dict[str, Any], context: int):
    assert parse_config(raw(rope_scaling=rope)).max_context == context


def test_a_null_is_not_the_same_as_nothing():
    left_out = raw("MistralForCausalLM", num_attention_heads=16)
    del left_out["num_key_value_heads"]
    assert parse_config(left_out).kv_heads == 8
    assert parse_config({**left_out, "num_key_value_heads": None}).kv_heads == 16


def test_reads_yarn_as_transformers_does():
    rope = {"rope_type": "yarn", "factor": 4.0, "beta_fast": None, "truncate": False}
    scaling = parse_config(raw(rope_scaling=rope, original_max_position_embeddings=64)).rope_scaling
    assert isinstance(scaling, YarnScaling)
    assert (scaling.original_context, scaling.beta_fast, scaling.truncate) == (64, 32.0, False)
    assert scaling.attention_factor == pytest.approx(1.1386, abs=1e-4)


def test_knows_what_sets_the_families_apart():
    qwen2, qwen3 = (parse_config(raw(f"Qwen{n}ForCausalLM")) for n in (2, 3))
    assert (qwen2.qkv_bias, qwen2.output_bias, qwen2.qk_norm) == (True, False, False)
    assert (qwen3.qkv_bias, qwen3.output_bias, qwen3.qk_norm) == (False, False, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["GPT2LMHeadModel"]},
            "GPT2LMHeadModel; supported are Exaone4",
        ),
        ({"architectures": None, "model_type": "bert"}, r"none \(model_type 'bert'\)"),
        ({"hidden_size": None}, "hidden_size is None: a positive integer"),
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0: a positive number"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes': true or false"),
        ({"num_key_value_heads": 3}, "4 attention heads cannot share 3 KV heads"),
        ({"hidden_act": "mish"}, "hidden_act is 'mish'; ours are silu, swish, gelu"),
        ({"rope_scaling": {"rope_type": "proportional"}}, "rope type 'proportional' is not one of"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; ours is 1"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, "a list of 8 numbers"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "factor is None"),
        ({"rope_parameters": 5}, "rope is 5: an object"),
    ],
)
def test_says_what_is_wrong(changes: dict[str, Any], message: str):
    with pytest.raises(ModelError, match=message):
        parse_config(raw(**changes))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "config.json is missing: a Hugging Face model folder"),
        ("{", "cannot be read as JSON"),
        ("[]", "holds list, a JSON object"),
    ],
)
def test_says_what_is_wrong_with_the_file(tmp_path: Path, content: str | None, message: str):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("generation", "config", "ids"),
    [
        (None, '{"eos_token_id": 2}', {2}),
        ('{"eos_token_id": [3, 4]}', '{"eos_token_id": 2}', {3, 4}),
        ("{}", '{"eos_token_id": 2}', {2}),
        ("{}", "{}", set()),
    ],
)
def test_finds_the_ends_of_sequence(
    tmp_path: Path, generation: str | None, config: str, ids: set[int]
):
    (tmp_path / "config.json").write_text(config)
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(generation)
    assert eos_token_ids(tmp_path) == ids

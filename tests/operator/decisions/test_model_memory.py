"""How much memory a model is said to need before a worker has loaded it."""

from __future__ import annotations

from typing import Any

import pytest

from modelfleet_operator.decisions.model_memory import (
    BY_CONFIG,
    MemoryUse,
    count_parameters,
    needs_by_config,
    needs_by_name,
)

GIB = 1 << 30
LLAMA_8B = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "torch_dtype": "bfloat16",
}
SMOLLM2 = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
MIXTRAL = {**LLAMA_8B, "vocab_size": 32000, "num_local_experts": 8}


@pytest.mark.parametrize(
    ("config", "billions"),
    [
        pytest.param(LLAMA_8B, 8.03, id="Llama 3 8B"),
        pytest.param(SMOLLM2, 0.1345, id="SmolLM2 135M, a tied head"),
        pytest.param(MIXTRAL, 46.7, id="Mixtral 8x7B"),
        pytest.param({"text_config": LLAMA_8B}, 8.03, id="the decoder of a model that sees"),
    ],
)
def test_counts_the_parameters_of_a_config(config: dict[str, Any], billions: float):
    assert count_parameters(config) / 1e9 == pytest.approx(billions, rel=0.002)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({}, id="nothing"),
        pytest.param({**LLAMA_8B, "hidden_size": "4096"}, id="a text for a number"),
        pytest.param({**LLAMA_8B, "num_hidden_layers": -1}, id="a negative number"),
        pytest.param({**LLAMA_8B, "vocab_size": True}, id="a truth for a number"),
        pytest.param({"text_config": [1]}, id="a list for an object"),
    ],
)
def test_a_config_that_does_not_tell_is_not_guessed_from(config: dict[str, Any]):
    assert needs_by_config(config, "owner/mine", bits=None, kv_cache=None) is None


def test_the_checkpoints_own_quantization_counts_unless_the_spec_says_another():
    quantized = {**LLAMA_8B, "quantization_config": {"quant_method": "awq", "bits": 4}}

    def weights(config: dict[str, Any], bits: int | None = None) -> float:
        needs = needs_by_config(config, "owner/mine", bits=bits, kv_cache=None)
        assert needs is not None
        assert needs.basis == BY_CONFIG
        return needs.weights / 8.03e9

    assert weights(LLAMA_8B) == pytest.approx(2.0, rel=0.01)
    assert weights(quantized) == pytest.approx(0.6, rel=0.01)
    assert weights(LLAMA_8B, bits=8) == pytest.approx(1.1, rel=0.01)
    groups = {"config_groups": {"group_0": {"weights": {"num_bits": 8}}}}
    assert weights({**LLAMA_8B, "quantization_config": groups}) == pytest.approx(1.1, rel=0.01)


def test_the_name_tells_less_and_the_cache_counts():
    needs = needs_by_name("owner/Llama-3.1-8B-Instruct", bits=None, kv_cache=None)
    assert (needs.total, needs.weights) == (17.75 * GIB, 16e9)
    more = needs_by_name("owner/Llama-3.1-8B-Instruct", bits=None, kv_cache=11 * GIB)
    assert more.total == 27.75 * GIB


def test_what_a_worker_reports_fits_or_does_not():
    use = MemoryUse(weights=16, cache=2, working=1, available=20)
    assert (use.total, use.fits) == (19, True)
    assert not MemoryUse(weights=16, cache=4, working=1, available=20).fits
    assert MemoryUse(weights=16, cache=4, working=1, available=0).fits, "it was not said"

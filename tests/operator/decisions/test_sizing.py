"""A model's size by its name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from modelfleet_operator.decisions.sizing import GIB, bits_in, parameters_in, worker_memory


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", 8),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 0.135),
        ("Qwen/Qwen2.5-0.5B", 0.5),
        ("Qwen/Qwen3-30B-A3B", 30),
        ("mistralai/Mixtral-8x7B-v0.1", 56),
        ("Qwen/Qwen2.5-7B-Instruct-1M", 7),
        ("google/gemma-2-9b-it", 9),
        ("openai/gpt-oss-20b", 20),
        ("microsoft/Phi-3-mini-4k-instruct", 0),
        ("someone/context-1M", 0),
        ("deepseek-ai/DeepSeek-V3", 0),
        ("sshleifer/tiny-gpt2", 0),
        ("models/llama/8b/", 8),
        ("70b/mine-7b", 7),
    ],
)
def test_names_tell_their_parameters(name: str, billions: float):
    assert parameters_in(name) == pytest.approx(billions * 1e9)


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("TheBloke/Llama-2-7B-AWQ", 4),
        ("org/Llama-3-8B-GPTQ-Int4", 4),
        ("org/Llama-3-8B-4bit", 4),
        ("org/Llama-3-8B-quantized.w4a16", 4),
        ("org/Llama-3-8B-FP8", 8),
        ("org/Llama-3-8B-w8a8", 8),
        ("org/Llama-3-8B", 16),
        ("org/awqward-8B", 16),
    ],
)
def test_names_tell_how_weights_are_stored(name: str, bits: int):
    assert bits_in(name) == bits


def test_a_larger_model_or_cache_never_asks_for_less():
    sizes = [worker_memory(f"m-{n}B", bits=None, kv_cache=None) for n in (1, 3, 8, 70, 405)]
    assert sizes == sorted(sizes)
    small, large = (worker_memory("m-8B", bits=4, kv_cache=n * GIB) for n in (1, 8))
    assert large - small == 7 * GIB


PAGE = Path(__file__).parents[3] / "docs" / "sizing.md"


def test_the_table_of_the_page_is_right():
    bits = {"the same with `quantization.weights: Int8`": 8, "the same with `Int4`": 4}
    rows = re.findall(r"^\| (.+?) \| .+ \| ([0-9.]+) GiB \|$", PAGE.read_text(), re.MULTILINE)
    assert len(rows) >= 7
    name = ""
    for model, gibibytes in rows:
        name = name if model in bits else model.strip("`").partition("://")[2]
        asked = worker_memory(name, bits=bits.get(model), kv_cache=None)
        assert asked == float(gibibytes) * GIB, model

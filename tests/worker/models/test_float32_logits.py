"""Logits are summed and kept in float32 up to the draw: of 16-bit ones the best are often equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import generic_models
from engine_run import run_engine
from modelfleet_worker.devices.native import library
from modelfleet_worker.devices.native.runner import NativeRunner
from modelfleet_worker.devices.torch.float32_product import float32_product
from modelfleet_worker.devices.torch.generic_runner import GenericRunner
from modelfleet_worker.devices.torch.runner import TorchRunner
from modelfleet_worker.engine.request import Request, Sequence
from modelfleet_worker.engine.scheduler import Chunk
from modelfleet_worker.loading.loader import load_model
from modelfleet_worker.models.linear import Linear
from modelfleet_worker.quantization.kernels import Kernel, TorchInt4, TorchInt8, Twin, pack
from modelfleet_worker.quantization.scheme import Scheme
from modelfleet_worker.quantization.weights import QuantizedWeight, quantize
from quantized_models import asked, tiny

IDS = [3, 14, 15, 92, 65, 35, 89]
COMPILED = pytest.mark.skipif(library.load_library() is None, reason="needs a compiler")


@pytest.fixture(params=[pytest.param("on", marks=COMPILED), "off"])
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether our compiled kernels are used."""
    monkeypatch.setenv("MODELFLEET_COMPILED_STEP", request.param)
    return request.param


def head(weight: torch.Tensor) -> Linear:
    outputs, inputs = weight.shape
    linear = Linear(inputs, outputs)
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    linear.pack(head=True)
    return linear


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_better_of_two_that_16_bits_cannot_tell_apart(compiled: str, dtype: torch.dtype):
    weight = torch.ones(2, 1024, dtype=dtype)
    weight[1, 0] += 2**-6
    x = torch.ones(1, 1024, dtype=dtype)
    logits = head(weight).in_float32(x)
    assert logits.tolist() == [[1024.0, 1024.0 + 2**-6]]
    assert len(set(logits.to(dtype)[0].tolist())) == 1


def test_a_weight_of_many_slices_is_computed_without_a_copy_of_it():
    weight = torch.randn(3000, 2048).to(torch.bfloat16)  # 24 MB in float32
    x = torch.randn(3, 2048).to(torch.bfloat16)
    taken: list[int] = []

    def rows(first: int, end: int) -> torch.Tensor:
        taken.append(end - first)
        return weight[first:end]

    found = float32_product(x, 3000, rows)
    assert torch.allclose(found, x.float() @ weight.float().t(), atol=1e-3)
    assert sum(taken) == 3000
    assert max(taken) * 2048 * 4 <= 4 << 20


def weight_of(bits: int) -> QuantizedWeight:
    scheme = Scheme(bits=bits, group=None if bits == 8 else 32, symmetric=bits == 8)
    return quantize(torch.randn(96, 128, generator=torch.Generator().manual_seed(0)), scheme)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_weights_too(compiled: str, bits: int, dtype: torch.dtype):
    weight, x = weight_of(bits), torch.randn(5, 128).to(dtype)
    kernels: list[Kernel] = [pack(weight, dtype), Twin(weight, dtype)]
    kernels += [k(weight, dtype) for k in (TorchInt8, TorchInt4) if k.takes(weight, dtype)]
    expected = x.float() @ weight.dequantized().t()
    for kernel in kernels:
        found = kernel.in_float32(x)
        assert found.dtype == torch.float32
        assert float((found - expected).norm() / expected.norm()) < 0.01
        assert not found.equal(found.to(torch.bfloat16).float())


def logits(runner: Any) -> torch.Tensor:
    sequence = Sequence(Request(request_id="a", prompt_ids=tuple(IDS), max_tokens=1))
    sequence.block_table = [0]
    return torch.as_tensor(runner.logits([Chunk.of(sequence, len(IDS))]))


@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied head"])
@pytest.mark.parametrize("weights", ["none", "int8", "int4"])
@pytest.mark.parametrize("dtype", ["BFloat16", "Float16"])
def test_our_modules(tmp_path: Path, compiled: str, dtype: str, weights: str, tied: bool):
    tiny(head_dim=32, tie_word_embeddings=tied).save_pretrained(tmp_path)
    runner = load_model(
        tmp_path,
        dtype=dtype,
        quantization=asked(weights),
        kv_cache_bytes=1 << 20,
        max_sequences=2,
        max_batch_tokens=64,
        progress=lambda *_: None,
    ).runner
    kind = NativeRunner if compiled == "on" and dtype == "BFloat16" else TorchRunner
    assert isinstance(runner, kind)
    found = logits(runner)
    assert found.dtype == torch.float32
    assert not found.equal(found.to(torch.bfloat16).float())


@pytest.mark.parametrize("weights", ["none", "int8"])
@pytest.mark.parametrize("dtype", ["BFloat16", "Float16"])
@pytest.mark.parametrize("name", ["phi", "opt", "gemma 2"])
def test_modules_of_transformers(
    tmp_path: Path, compiled: str, name: str, dtype: str, weights: str
):
    generic_models.saved(name, tmp_path)
    runner = generic_models.load(tmp_path, dtype=dtype, weights=weights).runner
    if (name, compiled, dtype) != ("gemma 2", "on", "BFloat16"):  # which the compiled step takes
        assert isinstance(runner, GenericRunner)
    found = logits(runner)
    assert found.dtype == torch.float32
    assert not found.equal(found.to(torch.bfloat16).float())


def test_the_first_answer_of_the_demo(
    smollm2: Path, reference: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
):
    """Without AVX-512 BF16 it began with another city: two logits were equal in bfloat16."""
    from transformers import AutoTokenizer

    monkeypatch.setenv("MODELFLEET_COMPILED_STEP", "off")
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    prompt = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    runner = load_model(
        smollm2,
        dtype="BFloat16",
        kv_cache_bytes=64 << 20,
        max_sequences=1,
        max_batch_tokens=256,
        progress=lambda *_: None,
    ).runner
    request = Request(request_id="a", prompt_ids=prompt, max_tokens=8)
    assert run_engine(runner, [request]).answers["a"].ids == generic_models.greedy(
        reference, prompt, 8
    )

"""Tiny models for tests of quantization, ours and transformers'."""

from __future__ import annotations

from collections.abc import Sequence as Items
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from modelfleet_worker.devices.native.runner import NativeRunner
from modelfleet_worker.devices.torch.runner import TorchRunner
from modelfleet_worker.engine.device import LoadedModel
from modelfleet_worker.engine.request import Request, Sequence
from modelfleet_worker.engine.scheduler import BLOCK_SIZE, Chunk
from modelfleet_worker.loading.loader import load_model
from modelfleet_worker.models.llama import Llama
from modelfleet_worker.models.rope import rope_tables
from modelfleet_worker.quantization.scheme import Override, Quantization, Weights
from modelfleet_worker.quantize.plain import CausalAttention

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,  # large enough for clear winners
}
# How far the compiled step may be from the same in float32, by its weights, of the logits' norm.
BOUNDS = {"none": 0.015, "int8": 0.035, "int4": 0.035}


def error(found: Tensor, truth: Tensor) -> float:
    """Of the norm of what is true."""
    return float((found - truth).norm() / truth.norm())


def tiny(**changes: Any) -> LlamaForCausalLM:
    """transformers' model with random weights, always the same."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **changes})).eval()


def asked(weights: str = "none", overrides: tuple[str, ...] = (), **more: Any) -> Quantization:
    return Quantization(
        weights=Weights(weights), overrides=tuple(map(Override.parse, overrides)), **more
    )


def load(folder: Path, *, dtype: str = "Float32", **quantization: Any) -> LoadedModel:
    return load_model(
        folder,
        dtype=dtype,
        quantization=asked(**quantization),
        kv_cache_bytes=64 << 20,
        max_sequences=8,
        max_batch_tokens=64,
        progress=lambda *_: None,
    )


def model_of(loaded: LoadedModel) -> Llama:
    assert isinstance(loaded.runner, TorchRunner)
    return loaded.runner.model


def native_runner(folder: Path, vocab_size: int) -> NativeRunner:
    """Of a random model that is written to the folder, for the compiled step."""
    tiny(vocab_size=vocab_size, head_dim=32).save_pretrained(folder)
    runner = load(folder, dtype="BFloat16").runner
    assert isinstance(runner, NativeRunner)
    return runner


class Int8Causal(CausalAttention):
    """Attention to keys and values that went through int8."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return super().attend(layer, query, _rounded(key), _rounded(value))


def _rounded(x: Tensor) -> Tensor:
    scale = x.abs().amax(dim=-1, keepdim=True) / 127
    return (x / scale).round() * scale


def int8_cache_logits(model: Llama, ids: list[int]) -> Tensor:
    """Of the last token, with keys and values that went through int8."""
    cos, sin = rope_tables(model.config, len(ids), torch.float32)
    with torch.inference_mode():
        rows = torch.tensor([len(ids) - 1])
        return model(torch.tensor(ids), cos, sin, Int8Causal(model.config), rows)[0]


def native_logits(runner: NativeRunner, ids: list[int]) -> Tensor:
    """Teacher-forced, [T, vocab]."""
    sequence = Sequence(Request(request_id="a", prompt_ids=tuple(ids), max_tokens=1))
    sequence.block_table = list(range(-(-len(ids) // BLOCK_SIZE)))
    return step_logits(runner, [Chunk.of(sequence, len(ids))], everywhere=True)


def step_logits(runner: NativeRunner, chunks: Items[Chunk], *, everywhere: bool = False) -> Tensor:
    """Of the compiled step."""
    return torch.from_numpy(runner.logits(chunks, everywhere=everywhere))


def logits(loaded: LoadedModel, ids: Tensor) -> Tensor:
    """Teacher-forced, [T, vocab] of ids [T]."""
    runner = loaded.runner
    if isinstance(runner, NativeRunner):
        return native_logits(runner, ids.tolist())
    assert isinstance(runner, TorchRunner)
    cos, sin = runner._cos[: len(ids)], runner._sin[: len(ids)]
    with torch.inference_mode():
        return runner.model(
            ids, cos, sin, CausalAttention(runner.model.config), torch.arange(len(ids))
        )

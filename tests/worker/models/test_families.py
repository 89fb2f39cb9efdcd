"""Tiny random models of each family against transformers', in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from engine_run import run_engine
from modelfleet_worker.devices.torch.runner import TorchRunner
from modelfleet_worker.engine.request import Request, SamplingParams
from modelfleet_worker.loading.loader import load_model

SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,  # large enough for clear winners
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama with all biases and its own head size": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, head_dim=16)
    ),
    "llama 3.1 rope": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=LLAMA3_ROPE)),
    "tied llama without sharing of heads": lambda: LlamaForCausalLM(
        LlamaConfig(**{**SIZES, "num_key_value_heads": 6}, tie_word_embeddings=True)
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16, attention_bias=True)),
}


def saved(name: str, folder: Path, **how) -> PreTrainedModel:
    torch.manual_seed(len(name))
    model = MODELS[name]().eval()
    for parameter in model.parameters():  # biases and norms are constants otherwise
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder, **how)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_equals_transformers(name: str, tmp_path: Path):
    theirs = saved(name, tmp_path)
    loaded = load_model(
        tmp_path,
        dtype="Float32",
        max_sequences=4,
        max_batch_tokens=64,
        progress=lambda *_: None,
    )
    prompts = [tuple(range(3, 3 + n)) for n in (2, 17, 60)]
    requests = [
        Request(
            request_id=str(i),
            prompt_ids=prompt,
            max_tokens=20,
            sampling=SamplingParams(logprobs=2),
        )
        for i, prompt in enumerate(prompts)
    ]
    run = run_engine(loaded.runner, requests, budget=24, vocab_size=97)
    for i, prompt in enumerate(prompts):
        answer = run.answers[str(i)]
        with torch.inference_mode():
            logits = theirs(torch.tensor([[*prompt, *answer.ids]])).logits[0, len(prompt) - 1 : -1]
        assert answer.ids == logits.argmax(-1).tolist()
        chosen = logits.log_softmax(-1).amax(-1).tolist()
        assert [p.chosen for p in answer.logprobs] == pytest.approx(chosen, abs=1e-4)
        assert len(set(answer.ids)) > 1


def test_a_sharded_checkpoint_is_the_same_model(tmp_path: Path):
    whole, sharded = tmp_path / "whole", tmp_path / "sharded"
    saved("llama", whole)
    saved("llama", sharded, max_shard_size="50KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    first, second = (
        load_model(f, max_sequences=1, max_batch_tokens=64, progress=lambda *_: None)
        for f in (whole, sharded)
    )
    assert first.digest == second.digest
    assert isinstance(first.runner, TorchRunner)
    assert isinstance(second.runner, TorchRunner)
    for ours, theirs in zip(
        first.runner.model.parameters(), second.runner.model.parameters(), strict=True
    ):
        assert ours.equal(theirs)

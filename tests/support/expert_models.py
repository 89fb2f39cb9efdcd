"""Tiny random models with experts, for the compiled step and as transformers computes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GraniteMoeConfig,
    GraniteMoeForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from modelfleet_worker.devices.native.runner import NativeRunner
from modelfleet_worker.engine.device import LoadedModel
from modelfleet_worker.engine.request import Request, Sequence
from modelfleet_worker.engine.scheduler import Chunk
from modelfleet_worker.loading.loader import load_model
from quantized_models import asked

VOCAB = 97
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
}
MANY: dict[str, Any] = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 64}
FAMILIES = {
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=5)),
    "mixtral with a window": lambda: MixtralForCausalLM(
        MixtralConfig(**SIZES, num_local_experts=4, sliding_window=21)
    ),
    "qwen3-moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SIZES, **MANY, head_dim=32, norm_topk_prob=True)
    ),
    "qwen3-moe, dense layers": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SIZES, **MANY, head_dim=32, mlp_only_layers=[0], attention_bias=True)
    ),
    "qwen2-moe": lambda: Qwen2MoeForCausalLM(
        Qwen2MoeConfig(**SIZES, **MANY, shared_expert_intermediate_size=96)
    ),
    "qwen2-moe, every second layer": lambda: Qwen2MoeForCausalLM(
        Qwen2MoeConfig(
            **SIZES,
            **{**MANY, "num_experts": 40},
            shared_expert_intermediate_size=32,
            decoder_sparse_step=2,
            norm_topk_prob=True,
        )
    ),
    "olmoe": lambda: OlmoeForCausalLM(
        OlmoeConfig(**SIZES, num_experts=8, num_experts_per_tok=2, pad_token_id=0, eos_token_id=1)
    ),
    "granite-moe": lambda: GraniteMoeForCausalLM(
        GraniteMoeConfig(
            **SIZES,
            num_local_experts=6,
            embedding_multiplier=3.0,
            attention_multiplier=0.2,
            residual_multiplier=0.7,
            logits_scaling=2.0,
        )
    ),
}
IDS = [int(i) for i in torch.randint(VOCAB, (90,), generator=torch.Generator().manual_seed(1))]


def made(name: str, **changes: Any) -> PreTrainedModel:
    """The model of transformers in float32, always the same; its weights are bfloat16's."""
    torch.manual_seed(len(name))
    model = FAMILIES[name]()
    if changes:
        config = type(model.config).from_dict({**model.config.to_dict(), **changes})
        model = type(model)(config)
    model.eval()
    for parameter in model.parameters():  # biases and norms are constants otherwise
        parameter.data += 0.05 * torch.randn_like(parameter)
        parameter.data = parameter.data.to(torch.bfloat16).float()
    model.set_attn_implementation("eager")
    return model


def saved(name: str, folder: Path, **how: Any) -> PreTrainedModel:
    model = made(name)
    model.save_pretrained(folder, **how)
    return model


def load(
    folder: Path, weights: str = "none", dtype: str = "BFloat16", **quantization: Any
) -> LoadedModel:
    return load_model(
        folder,
        dtype=dtype,
        quantization=asked(weights, **quantization),
        kv_cache_bytes=16 << 20,
        max_sequences=16,
        max_batch_tokens=256,
        progress=lambda *_: None,
    )


def native(loaded: LoadedModel) -> NativeRunner:
    assert isinstance(loaded.runner, NativeRunner)
    return loaded.runner


def sequence(ids: list[int], first_block: int) -> Sequence:
    made = Sequence(Request(request_id="a", prompt_ids=tuple(ids), max_tokens=1))
    made.block_table = list(range(first_block, first_block + len(ids) // 16 + 1))
    return made


def native_choices(runner: NativeRunner, ids: list[int]) -> Tensor:
    """[layers with experts, T, chosen], each token's in the order of experts."""
    chosen = torch.from_numpy(runner.chosen_experts([Chunk.of(sequence(ids, 0), len(ids))]))
    return chosen[(chosen >= 0).flatten(1).all(1)].sort(-1).values


@torch.inference_mode()
def truth(model: PreTrainedModel, ids: list[int], chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Transformers' logits [T, vocab] with the experts `chosen`, and those that it would choose.

    Where two experts are nearly as likely, rounding decides between them, and much follows.
    """
    own: list[Tensor] = []

    def choose(_: object, inputs: object, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        logits, _, indices = output
        taken = chosen[len(own)].long()
        own.append(indices.sort(-1).values)
        weights = logits.float().softmax(-1).gather(1, taken)
        if getattr(model.config, "norm_topk_prob", True):
            weights = weights / weights.sum(-1, keepdim=True)
        return logits, weights, taken

    routers = [m for m in model.modules() if type(m).__name__.endswith("TopKRouter")]
    hooks = [router.register_forward_hook(choose) for router in routers]
    logits = model(torch.tensor([ids])).logits[0]
    for hook in hooks:
        hook.remove()
    return logits, torch.stack(own)

"""Tiny random models of architectures that we have no modules for, as transformers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    DbrxConfig,
    DbrxForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    DiffLlamaConfig,
    DiffLlamaForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3nForCausalLM,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteMoeHybridConfig,
    GraniteMoeHybridForCausalLM,
    HrmTextConfig,
    HrmTextForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from modelfleet_worker.devices.torch.generic_runner import GenericRunner
from modelfleet_worker.devices.torch.paged_attention import KVCache
from modelfleet_worker.devices.torch.runner import FlatBatch
from modelfleet_worker.devices.torch.varied_attention import VariedAttention
from modelfleet_worker.engine.device import LoadedModel
from modelfleet_worker.engine.request import Request, Sequence
from modelfleet_worker.engine.scheduler import BLOCK_SIZE, Chunk
from modelfleet_worker.loading.loader import load_model
from quantized_models import asked

VOCAB = 97
WINDOW = 16  # of the models that slide; prompts of tests are longer
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,  # large enough for clear winners
}
LATENT = {  # keys of 16 numbers, values of 12
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 8,
    "n_group": 2,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
PER_LAYER = {  # embeddings of every layer, as the small Gemmas have
    "vocab_size_per_layer_input": VOCAB,
    "hidden_size_per_layer_input": 8,
    "sliding_window": WINDOW,
    "tie_word_embeddings": False,  # it would repeat its last token
}
MODELS = {
    "mixtral": lambda: MixtralForCausalLM(
        MixtralConfig(**SIZES, num_local_experts=4, sliding_window=WINDOW)
    ),
    "qwen3-moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **SIZES, head_dim=16, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=32
        )
    ),
    "gemma 2": lambda: Gemma2ForCausalLM(
        Gemma2Config(
            **SIZES,
            head_dim=32,
            sliding_window=WINDOW,
            query_pre_attn_scalar=24,
            tie_word_embeddings=False,  # it would repeat its last token
            attn_logit_softcapping=2.0,  # low enough to be felt
            final_logit_softcapping=20.0,
        )
    ),
    "gemma 3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **{**SIZES, "num_hidden_layers": 6},  # every sixth does not slide
            head_dim=32,
            sliding_window=WINDOW,
            query_pre_attn_scalar=24,
            tie_word_embeddings=False,  # it would repeat its last token
        )
    ),
    "phi": lambda: PhiForCausalLM(PhiConfig(**SIZES)),
    "phi 3": lambda: Phi3ForCausalLM(Phi3Config(**SIZES, sliding_window=WINDOW, pad_token_id=0)),
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            vocab_size=VOCAB,
            hidden_size=64,
            word_embed_proj_dim=64,
            ffn_dim=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=256,
            init_std=0.3,
        )
    ),
    "deepseek 3": lambda: DeepseekV3ForCausalLM(
        DeepseekV3Config(**{**SIZES, "num_key_value_heads": 4}, **LATENT)
    ),
    "gemma 3n": lambda: Gemma3nForCausalLM(
        Gemma3nTextConfig(
            **{**SIZES, "num_hidden_layers": 4, "intermediate_size": [64, 96, 96, 64]},
            **PER_LAYER,
            head_dim=16,
            layer_types=["sliding_attention", "full_attention"] * 2,
            num_kv_shared_layers=2,
            laurel_rank=8,
            activation_sparsity_pattern=[0.5, 0.0, 0.0, 0.0],
        )
    ),
    "gemma 4": lambda: Gemma4ForCausalLM(
        Gemma4TextConfig(
            **{**SIZES, "num_hidden_layers": 6},
            **PER_LAYER,
            head_dim=16,
            global_head_dim=32,
            layer_types=["sliding_attention", "full_attention"] * 3,
            num_kv_shared_layers=2,
        )
    ),
    "granite 4, dense": lambda: GraniteMoeHybridForCausalLM(
        GraniteMoeHybridConfig(
            **SIZES,
            layer_types=["full_attention"] * 3,
            num_local_experts=0,
            shared_intermediate_size=96,
            position_embedding_type="rope",
            attention_multiplier=0.2,
            residual_multiplier=0.7,
            logits_scaling=2.0,
            mamba_n_heads=8,
        )
    ),
    "dbrx": lambda: DbrxForCausalLM(
        DbrxConfig(
            vocab_size=VOCAB,
            d_model=64,
            n_heads=4,
            n_layers=3,
            max_seq_len=256,
            initializer_range=0.3,
            attn_config={"kv_n_heads": 2, "clip_qkv": 2.0, "rope_theta": 1e4},
            ffn_config={
                "hidden_size": 64,
                "ffn_hidden_size": 32,
                "moe_num_experts": 4,
                "moe_top_k": 2,
            },
        )
    ),
    "diffllama": lambda: DiffLlamaForCausalLM(DiffLlamaConfig(**SIZES)),
    "hrm, forwards": lambda: HrmTextForCausalLM(
        HrmTextConfig(
            **{k: v for k, v in SIZES.items() if k != "num_key_value_heads"},
            head_dim=16,
            H_cycles=1,
            L_cycles=1,
            prefix_lm=False,
        )
    ),
}


def saved(name: str, folder: Path, **how: Any) -> PreTrainedModel:
    """The model of transformers, always the same, with its own eager attention."""
    torch.manual_seed(len(name))
    model = MODELS[name]().eval()
    for parameter in model.parameters():  # biases and norms are constants otherwise
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder, **how)
    model.set_attn_implementation("eager")
    return model


def load(folder: Path, *, dtype: str = "Float32", **changes: Any) -> LoadedModel:
    quantization = {k: changes.pop(k) for k in ("weights", "overrides", "kv_cache") if k in changes}
    return load_model(
        folder,
        dtype=dtype,
        quantization=asked(**quantization),
        max_sequences=8,
        max_batch_tokens=64,
        **{"progress": lambda *_: None, **changes},
    )


def runner_of(loaded: LoadedModel) -> GenericRunner:
    assert isinstance(loaded.runner, GenericRunner)
    return loaded.runner


def greedy(model: PreTrainedModel, prompt: tuple[int, ...], tokens: int) -> list[int]:
    """What transformers generates, with a cache of its own."""
    generated = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt)),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        use_cache=True,
    )
    return generated[0, len(prompt) :].tolist()


@torch.inference_mode()
def teacher_forced(loaded: LoadedModel, ids: list[int]) -> torch.Tensor:
    """Logits [T, vocab] of ids [T], as one chunk."""
    model = runner_of(loaded).model
    sequence = Sequence(Request(request_id="a", prompt_ids=tuple(ids), max_tokens=1))
    sequence.block_table = list(range(-(-len(ids) // BLOCK_SIZE)))
    shapes = [layer.shape for layer in model.layers]
    cache = KVCache(shapes, num_blocks=len(sequence.block_table), dtype=model.dtype)
    batch = FlatBatch.of([Chunk.of(sequence, len(ids))])
    attention = VariedAttention(cache, model.layers, batch.chunks)
    return model.logits(batch.ids, batch.positions, attention, torch.arange(len(ids)))

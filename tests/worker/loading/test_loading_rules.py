"""What transformers 5.23 would load from a folder, and which of our paths computes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    DbrxConfig,
    DbrxForCausalLM,
    DeepseekV3ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteMoeHybridConfig,
    GraniteMoeHybridForCausalLM,
    HrmTextConfig,
    HrmTextForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MptConfig,
    MptForCausalLM,
    PreTrainedModel,
)

from engine_run import run_engine
from generic_models import MODELS, SIZES, VOCAB, greedy, load
from modelfleet_worker.devices.torch.generic_runner import GenericRunner
from modelfleet_worker.devices.torch.runner import TorchRunner
from modelfleet_worker.engine.device import LoadedModel
from modelfleet_worker.engine.request import Request
from modelfleet_worker.errors import ModelError
from modelfleet_worker.models.config import parse_config, read_json

PROMPT = tuple((11 * i + 5) % VOCAB for i in range(40))
NEW = 8


def llama(folder: Path, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**SIZES, **changes})).eval()
    model.save_pretrained(folder)
    return model


def change_config(folder: Path, *, remove: tuple[str, ...] = (), **changes: Any) -> None:
    path = folder / "config.json"
    kept = {k: v for k, v in json.loads(path.read_text()).items() if k not in remove}
    path.write_text(json.dumps({**kept, **changes}))


def said(loaded: LoadedModel) -> list[int]:
    request = Request(request_id="a", prompt_ids=PROMPT, max_tokens=NEW)
    return run_engine(loaded.runner, [request], vocab_size=VOCAB).answers["a"].ids


def rename(folder: Path, change: dict[str, str]) -> None:
    """Prefixes of tensors' names."""
    path = folder / "model.safetensors"
    renamed = {}
    for name, tensor in load_file(path).items():
        old = next((old for old in change if name.startswith(old)), "")
        renamed[change.get(old, "") + name.removeprefix(old)] = tensor
    save_file(renamed, path, metadata={"format": "pt"})


def test_a_whole_file_counts_more_than_a_stale_index(tmp_path: Path):
    theirs = llama(tmp_path)
    stale = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(stale))
    assert said(load(tmp_path)) == greedy(theirs, PROMPT, NEW)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_without_a_type_in_the_config_the_weights_have_it(
    tmp_path: Path, dtype: torch.dtype, sharded: bool
):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).to(dtype)
    model.save_pretrained(tmp_path, max_shard_size="50KB" if sharded else "1GB")
    change_config(tmp_path, remove=("dtype", "torch_dtype"))
    runner = load(tmp_path, dtype="Auto").runner
    assert runner.model.norm.weight.dtype == dtype


def test_names_without_their_prefix(tmp_path: Path):
    theirs = llama(tmp_path)
    rename(tmp_path, {"model.": ""})
    assert said(load(tmp_path)) == greedy(theirs, PROMPT, NEW)
    rename(tmp_path, {"lm_head.": "model.lm_head.", "layers.": "model.layers."})
    assert said(load(tmp_path)) == greedy(theirs, PROMPT, NEW)


def test_names_without_their_prefix_on_transformers_modules(tmp_path: Path):
    theirs = llama(tmp_path, hidden_act="gelu")
    rename(tmp_path, {"model.": ""})
    assert said(load(tmp_path)) == greedy(theirs, PROMPT, NEW)


def test_another_name_of_the_same_activation(tmp_path: Path):
    theirs = llama(tmp_path, hidden_act="swish")
    loaded = load(tmp_path)
    assert isinstance(loaded.runner, TorchRunner)
    assert said(loaded) == greedy(theirs, PROMPT, NEW)


@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh", "relu2"])
def test_what_our_modules_lack_is_computed_by_transformers(tmp_path: Path, activation: str):
    theirs = llama(tmp_path, hidden_act=activation)
    loaded = load(tmp_path)
    assert isinstance(loaded.runner, GenericRunner)
    assert loaded.computed_by == "transformers' LlamaForCausalLM with our attention, float32"
    assert said(loaded) == greedy(theirs, PROMPT, NEW)


def test_what_neither_serves_is_refused_with_both_reasons(tmp_path: Path):
    llama(tmp_path, hidden_act="gelu")
    change_config(tmp_path, quantization_config={"quant_method": "awq"})
    with pytest.raises(ModelError, match=r"compiled step only, .*; nor do .* quantized"):
        load(tmp_path)


def test_the_path_is_told(tmp_path: Path):
    llama(tmp_path)
    assert load(tmp_path).computed_by == "our modules on torch's operations, float32"
    int8 = load(tmp_path, weights="int8", overrides=("*.mlp.*=none",))
    shapes = {name: t.numel() for name, t in load_file(tmp_path / "model.safetensors").items()}
    inside = {name: n for name, n in shapes.items() if name.endswith("_proj.weight")}
    share = sum(n for name, n in inside.items() if "self_attn" in name) / sum(inside.values())
    told = f"float32, {share:.0%} of the weights beside embeddings and head quantized"
    assert int8.computed_by.endswith(told)


def test_internlm3_is_a_llama(tmp_path: Path):
    """Its own name, the fields of its own code, and a rope that grows with the sequence."""
    rope = {"rope_type": "dynamic", "factor": 6.0}
    theirs = llama(
        tmp_path,
        max_position_embeddings=32,
        rope_parameters={**rope, "rope_theta": 500.0},
        attention_bias=True,
        mlp_bias=True,
    )
    change_config(
        tmp_path,
        remove=("attention_bias", "mlp_bias", "rope_parameters"),
        architectures=["InternLM3ForCausalLM"],
        model_type="internlm3",
        auto_map={"AutoModelForCausalLM": "modeling_internlm3.InternLM3ForCausalLM"},
        qkv_bias=True,
        bias=True,
        rope_scaling=rope,
        rope_theta=500.0,
    )
    assert said(load(tmp_path)) == greedy(theirs, PROMPT, NEW)
    change_config(tmp_path, hidden_act="gelu")  # and on transformers' modules
    assert isinstance(load(tmp_path).runner, GenericRunner)


def test_kimi_k2_is_a_deepseek_3(tmp_path: Path):
    torch.manual_seed(1)
    theirs = MODELS["deepseek 3"]().eval()
    assert isinstance(theirs, DeepseekV3ForCausalLM)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "configuration_deepseek.py").write_text("raise SystemExit('code was run')")
    change_config(
        tmp_path,
        model_type="kimi_k2",
        auto_map={"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
    )
    assert said(load(tmp_path)) == greedy(theirs, PROMPT, NEW)


def test_a_head_alone_is_no_quantized_model(tmp_path: Path):
    """GPT-2 has no linear projections but the head, which may be most of the weights."""
    GPT2LMHeadModel(
        GPT2Config(vocab_size=4096, n_embd=64, n_layer=1, n_head=4, tie_word_embeddings=False)
    ).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"only 0% of its weights .* head not counted"):
        load(tmp_path, weights="int8")
    asked_for = load(tmp_path, overrides=("lm_head=int8",))
    assert asked_for.computed_by.endswith(
        ", 0% of the weights beside embeddings and head quantized"
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: MptForCausalLM(MptConfig(d_model=64, n_heads=4, n_layers=1, vocab_size=VOCAB)),
            "its attention does not go through transformers' attention interface",
        ),
        (
            lambda: HrmTextForCausalLM(
                HrmTextConfig(
                    vocab_size=VOCAB,
                    hidden_size=64,
                    intermediate_size=96,
                    num_hidden_layers=1,
                    num_attention_heads=4,
                    head_dim=16,
                )
            ),
            r"it reads prompts in both directions \(prefix_lm\)",
        ),
        (
            lambda: DbrxForCausalLM(
                DbrxConfig(
                    vocab_size=VOCAB,
                    d_model=64,
                    n_heads=4,
                    n_layers=1,
                    attn_config={"kv_n_heads": 2, "rope_theta": 5e5},
                    ffn_config={"hidden_size": 64, "ffn_hidden_size": 32},
                )
            ),
            "rope_theta 500000 in attn_config, where transformers 5.* does not read it",
        ),
        (
            lambda: GraniteMoeHybridForCausalLM(
                GraniteMoeHybridConfig(
                    **SIZES,
                    layer_types=["linear_attention", "full_attention", "full_attention"],
                    num_local_experts=0,
                    mamba_n_heads=8,
                )
            ),
            "it keeps a state beside keys and values",
        ),
    ],
    ids=["mpt", "hrm", "dbrx", "granite 4 with mamba"],
)
def test_what_is_refused_is_told_as_it_is(tmp_path: Path, build: Any, message: str):
    build().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=message):
        load(tmp_path)


def test_code_of_a_model_is_never_run_and_nobody_is_told_to_allow_it(tmp_path: Path):
    llama(tmp_path)
    change_config(
        tmp_path,
        architectures=["NewForCausalLM"],
        model_type="new",
        auto_map={"AutoConfig": "code.Config"},
    )
    (tmp_path / "code.py").write_text("raise SystemExit('code of the model was run')")
    with pytest.raises(ModelError, match=r"no model of type 'new', and code .* is never run") as e:
        load(tmp_path)
    assert "trust_remote_code" not in str(e.value)


def test_a_config_that_transformers_reads_alike(tmp_path: Path):
    llama(tmp_path, num_key_value_heads=4)
    change_config(tmp_path, num_key_value_heads=None)
    assert parse_config(read_json(tmp_path / "config.json")).kv_heads == 4

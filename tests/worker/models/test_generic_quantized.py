"""Quantized decoders of transformers' modules: what is packed, and what routers make of it."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from engine_run import run_engine
from generic_models import VOCAB, load, runner_of, saved, teacher_forced
from modelfleet_worker.engine.device import LoadedModel
from modelfleet_worker.engine.request import Request
from modelfleet_worker.errors import ModelError
from modelfleet_worker.models.linear import QuantizedLinear
from modelfleet_worker.models.packed_modules import FlatLinear
from modelfleet_worker.quantization.scheme import KVFormat
from quantized_models import asked
from rounded_models import rounded

IDS = torch.randint(VOCAB, (200,), generator=torch.Generator().manual_seed(0)).tolist()
MOE = ["mixtral", "qwen3-moe"]
ROUTERS = ("MixtralTopKRouter", "Qwen3MoeTopKRouter")


@pytest.mark.parametrize("name", [*MOE, "gemma 2", "phi 3", "gpt-neox"])
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_equals_transformers_with_the_same_weights_rounded(tmp_path: Path, name: str, weights: str):
    theirs = rounded(saved(name, tmp_path), asked(weights))
    ours = teacher_forced(load(tmp_path, weights=weights), IDS)
    with torch.inference_mode():
        expected = theirs(torch.tensor([IDS])).logits[0]
    assert float((ours - expected).abs().max()) < 1e-3 * float(expected.abs().max())


@pytest.mark.parametrize(
    ("name", "dtype", "near", "quantization"),
    [
        ("mixtral", "Float32", 1e-4, {"weights": "int8"}),
        ("phi", "BFloat16", 0.25, {"weights": "int8"}),
        ("gemma 2", "Float32", 0.25, {"kv_cache": KVFormat.INT8}),
    ],
)
def test_in_an_engine_it_says_what_it_says_to_a_whole_prompt(
    tmp_path: Path, name: str, dtype: str, near: float, quantization: dict[str, Any]
):
    saved(name, tmp_path)
    loaded = load(tmp_path, dtype=dtype, **quantization)
    requests = [
        Request(request_id=str(i), prompt_ids=tuple(IDS[i : i + 30]), max_tokens=8)
        for i in range(3)
    ]
    run = run_engine(loaded.runner, requests, budget=7, vocab_size=VOCAB)
    for request in requests:
        answer = run.answers[request.request_id].ids
        logits = teacher_forced(loaded, [*request.prompt_ids, *answer])
        rows = logits[len(request.prompt_ids) - 1 : -1].log_softmax(-1)
        behind = rows.amax(-1) - rows[torch.arange(len(answer)), torch.tensor(answer)]
        assert float(behind.max()) < near


def choices(loaded: LoadedModel) -> torch.Tensor:
    """Which experts each layer's router takes for each of IDS, [layers * T, experts], bool."""
    taken = []

    def note(module: torch.nn.Module, _: object, output: tuple[torch.Tensor, ...]) -> None:
        logits, _, indices = output
        taken.append(torch.zeros_like(logits).scatter_(1, indices, 1.0).bool())

    routers = [m for m in runner_of(loaded).model.module.modules() if type(m).__name__ in ROUTERS]
    assert len(routers) == 3
    hooks = [router.register_forward_hook(note) for router in routers]
    teacher_forced(loaded, IDS)
    for hook in hooks:
        hook.remove()
    return torch.cat(taken)


@pytest.mark.parametrize("name", MOE)
@pytest.mark.parametrize(("weights", "bound"), [("int8", 0.05), ("int4", 0.3)])
def test_the_router_keeps_its_choices(tmp_path: Path, name: str, weights: str, bound: float):
    saved(name, tmp_path)
    before, after = choices(load(tmp_path)), choices(load(tmp_path, weights=weights))
    changed = float((before & ~after).sum() / before.sum())
    print(f"{name}, {weights}: {changed:.2%} of {int(before.sum())} choices changed")
    assert changed < bound


def is_quantized(module: torch.nn.Module) -> bool:
    assert isinstance(module, FlatLinear)
    return isinstance(module.projection, QuantizedLinear)


@pytest.mark.parametrize("name", MOE)
def test_experts_are_packed_and_routers_are_left_alone(tmp_path: Path, name: str):
    theirs = saved(name, tmp_path)
    module = runner_of(load(tmp_path, weights="int4")).model.module
    layer = module.model.layers[0].mlp
    assert torch.equal(layer.gate.weight, theirs.model.layers[0].mlp.gate.weight)
    assert not [p for p in module.parameters() if p.ndim == 3]
    assert is_quantized(module.model.layers[0].self_attn.q_proj)
    plain = sum(p.nbytes for p in theirs.model.layers[0].mlp.experts.parameters())
    packed = sum(
        k.nbytes for part in ("gate_up_proj", "down_proj") for k in vars(layer.experts)[part]
    )
    assert packed < plain / 4


def test_overrides_reach_experts_of_single_layers(tmp_path: Path):
    saved("mixtral", tmp_path)
    overrides = ("*.0.*experts=none", "*.1.*experts=int4", "lm_head=none", "*.q_proj=none")
    module = runner_of(load(tmp_path, weights="int8", overrides=overrides)).model.module
    first, second, third = (layer.mlp.experts for layer in module.model.layers)
    assert isinstance(first.down_proj, torch.nn.Parameter)
    assert second.down_proj[0].nbytes < third.down_proj[0].nbytes
    assert not is_quantized(module.lm_head)
    assert not is_quantized(module.model.layers[0].self_attn.q_proj)
    assert is_quantized(module.model.layers[0].self_attn.k_proj)
    with pytest.raises(ModelError, match="override lm_heed=none matches no module"):
        load(tmp_path, overrides=("lm_heed=none",))


def test_a_tied_head_is_quantized_and_the_embedding_is_not(tmp_path: Path):
    theirs = saved("opt", tmp_path)
    assert theirs.config.tie_word_embeddings
    module = runner_of(load(tmp_path, weights="int8")).model.module
    assert is_quantized(module.lm_head)
    assert torch.equal(module.get_input_embeddings().weight, theirs.get_input_embeddings().weight)


def test_the_plain_weights_are_freed(tmp_path: Path):
    theirs = saved("mixtral", tmp_path)
    shapes = {tuple(p.shape) for p in theirs.parameters() if p.ndim == 3}
    del theirs
    loaded = load(tmp_path, weights="int8")
    gc.collect()
    tensors = [o for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter)]
    held = [t for t in tensors if tuple(t.shape) in shapes]
    assert not held
    assert loaded


def test_an_int8_cache_has_room_for_more_tokens(tmp_path: Path):
    saved("deepseek 3", tmp_path)  # a token: 3 layers, 4 heads, keys of 16 and values of 12 numbers
    plain, int8 = (
        load(tmp_path, kv_cache_bytes=64 * 3 * 4 * 4 * (16 + 12), kv_cache=kv).limits.kv_tokens
        for kv in (KVFormat.AUTO, KVFormat.INT8)
    )
    assert (plain, int8) == (64, 192)  # each vector has a scale of 4 bytes


def test_a_model_of_other_projections_is_refused(tmp_path: Path):
    GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=64, n_layer=2, n_head=4)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ModelError, match=r"only 0% of its weights are in projections"):
        load(tmp_path, weights="int8")

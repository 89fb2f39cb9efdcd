"""What comes out of a load of any decoder, and which models are refused, with the reason."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GptOssConfig,
    GptOssForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    MambaConfig,
    MambaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.models.opt import modeling_opt
from transformers.models.phi import modeling_phi

from generic_models import SIZES, VOCAB, load, saved, teacher_forced
from modelfleet_worker.devices.warm_up import warm_up
from modelfleet_worker.errors import ModelError
from modelfleet_worker.loading import sizing

IDS = [(7 * i + 3) % VOCAB for i in range(50)]


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_limits_come_from_what_the_layers_store(tmp_path: Path):
    saved("deepseek 3", tmp_path)
    loaded = load(tmp_path, context_length=100)
    assert (loaded.limits.context_length, loaded.limits.vocab_size) == (100, VOCAB)
    assert loaded.limits.kv_tokens == 8 * 100  # more would be of no use
    token_bytes = 3 * 4 * (16 + 12) * 4  # layers, heads, keys and values, bytes
    small = load(tmp_path, kv_cache_bytes=50 * token_bytes)
    assert small.limits.kv_tokens == 48
    with pytest.raises(ModelError, match="context goes from 2 to 256"):
        load(tmp_path, context_length=257)


def test_the_digest_is_of_all_that_decides_the_logits(tmp_path: Path):
    saved("phi", tmp_path / "a")
    first = load(tmp_path / "a").digest
    assert load(tmp_path / "a").digest == first
    assert load(tmp_path / "a", dtype="BFloat16").digest != first
    assert load(tmp_path / "a", weights="int8").digest != first
    change_config(tmp_path / "a", layer_norm_eps=1e-3)
    assert load(tmp_path / "a").digest != first


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("gemma 2", "Float16"),  # in bfloat16 the compiled step takes it
        ("phi 3", "BFloat16"),  # not with heads of 16
        ("phi 3", "Float16"),
        ("opt", "BFloat16"),
        ("opt", "Float16"),
    ],
)
def test_lower_precision_is_rounding(tmp_path: Path, name: str, dtype: str):
    theirs = saved(name, tmp_path)
    ours = teacher_forced(load(tmp_path, dtype=dtype), IDS)
    with torch.inference_mode():
        expected = theirs(torch.tensor([IDS])).logits[0]
    assert float((ours - expected).norm() / expected.norm()) < 0.1


def test_a_sharded_folder_may_change_once_the_model_is_loaded(tmp_path: Path):
    saved("mixtral", tmp_path, max_shard_size="50KB")
    shards = list(tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    loaded = load(tmp_path)
    for shard in shards:
        shard.write_bytes(b"")  # a mapped file would now be a SIGBUS
    warm_up(loaded.runner, 8)


REFUSED = {
    "an encoder": (
        lambda: T5ForConditionalGeneration(
            T5Config(vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
        ),
        "T5ForConditionalGeneration has an encoder: only decoders are served",
    ),
    "a state": (
        lambda: MambaForCausalLM(
            MambaConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=1)
        ),
        "MambaForCausalLM cannot be served: it keeps a state beside keys and values",
    ),
    "attention of its own": (
        lambda: BloomForCausalLM(
            BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=1, n_head=4)
        ),
        "its attention does not go through transformers' attention interface",
    ),
    "sinks": (
        lambda: GptOssForCausalLM(GptOssConfig(**SIZES, head_dim=16, num_local_experts=4)),
        "the attention of layer 0 takes s_aux, which ours does not",
    ),
    "chunked attention": (
        lambda: Llama4ForCausalLM(
            Llama4TextConfig(**SIZES, head_dim=16, num_local_experts=2, intermediate_size_mlp=32)
        ),
        "it has layers of chunked_attention",
    ),
    "attention to what comes later": (
        lambda: Gemma3ForCausalLM(
            Gemma3TextConfig(**SIZES, head_dim=16, use_bidirectional_attention=True)
        ),
        "its attention mask is neither causal nor a sliding window",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refuses_with_the_reason(tmp_path: Path, kind: str):
    build, message = REFUSED[kind]
    build().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["NewForCausalLM"]}, "knows no decoder of this name"),
        ({"architectures": None}, "unsupported architecture in config.json: none"),
        ({"model_type": "new", "architectures": ["NewForCausalLM"]}, "does not understand config"),
        (
            {"model_type": "new", "auto_map": {"AutoConfig": "code.Config"}},
            "does not understand config.* is never run",
        ),
        ({"quantization_config": {"quant_method": "awq"}}, "only unquantized ones are read"),
        ({"hidden_size": 128}, "the weights do not fit the architecture"),
        ({"num_hidden_layers": 4}, "do not fit the architecture: .* missing keys"),
        ({"num_hidden_layers": 2}, "do not fit the architecture: .* unexpected keys"),
    ],
)
def test_refuses_a_folder_with_the_reason(tmp_path: Path, changes: dict[str, Any], message: str):
    PhiForCausalLM(PhiConfig(**SIZES)).save_pretrained(tmp_path)
    (tmp_path / "code.py").write_text("raise SystemExit('code of the model was run')")
    change_config(tmp_path, **changes)
    with pytest.raises(ModelError, match=message):
        load(tmp_path)


def test_refuses_pickles(tmp_path: Path):
    saved("phi", tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"only pickle files \(pytorch_model.bin\)"):
        load(tmp_path)


def test_refuses_weights_that_do_not_fit_into_memory_before_it_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved("phi", tmp_path)
    elements = sum(t.numel() for t in load_file(tmp_path / "model.safetensors").values())
    monkeypatch.setattr(sizing, "available_memory", lambda: 2 * elements)
    phases: list[str] = []
    with pytest.raises(ModelError, match="the weights need"):
        load(tmp_path, progress=lambda phase, _: phases.append(phase))
    assert phases == []


def test_refuses_a_model_that_does_more_with_its_attention_than_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A twist in the model's own attention, of which ours hears nothing."""
    saved("phi", tmp_path)
    eager = modeling_phi.eager_attention_forward

    def twisted(module, query, *args, **options):
        return eager(module, 1.1 * query, *args, **options)

    monkeypatch.setattr(modeling_phi, "eager_attention_forward", twisted)
    with pytest.raises(ModelError, match=r"logits are .*% away from its own, 0.1% would be"):
        load(tmp_path)


def test_refuses_a_model_that_counts_positions_in_a_way_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved("opt", tmp_path)
    compute = modeling_opt.OPTDecoder.forward

    def counting_from_two(self, input_ids=None, position_ids=None, **options):
        if position_ids is None:
            position_ids = 2 + torch.arange(input_ids.shape[1])[None]
        return compute(self, input_ids=input_ids, position_ids=position_ids, **options)

    monkeypatch.setattr(modeling_opt.OPTDecoder, "forward", counting_from_two)
    with pytest.raises(ModelError, match="away from its own"):
        load(tmp_path)


def test_refuses_a_model_that_computes_in_two_precisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Our kernels would take the bytes of one number for two."""
    saved("phi", tmp_path)
    mlp = modeling_phi.PhiMLP.forward
    monkeypatch.setattr(
        modeling_phi.PhiMLP, "forward", lambda self, hidden: mlp(self, hidden.float())
    )
    with pytest.raises(ModelError, match="bfloat16 got inputs of torch"):
        load(tmp_path, dtype="BFloat16")


def test_refuses_a_model_with_layers_that_are_no_attention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved("phi", tmp_path)
    attend = modeling_phi.PhiAttention.forward

    def sometimes(self, hidden_states, *args, **options):
        if self.layer_idx == 1:
            return hidden_states.cumsum(1), None
        return attend(self, hidden_states, *args, **options)

    monkeypatch.setattr(modeling_phi.PhiAttention, "forward", sometimes)
    with pytest.raises(ModelError, match="its 3 layers attend 2 times through"):
        load(tmp_path)


def test_refuses_a_model_whose_tokens_notice_their_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A convolution over the batch's tokens: right for one prompt in one piece, wrong in chunks."""
    saved("phi", tmp_path)
    mlp = modeling_phi.PhiMLP.forward

    def mixing(self, hidden_states):
        return mlp(self, hidden_states + hidden_states.roll(1, dims=1))

    monkeypatch.setattr(modeling_phi.PhiMLP, "forward", mixing)
    with pytest.raises(ModelError, match="away from its own"):
        load(tmp_path)


def test_our_own_families_need_nothing_of_it():
    """Importing transformers' models takes seconds of every start."""
    code = (
        "import sys, modelfleet_worker.loading.loader;"
        "print([m for m in sys.modules if m.startswith('transformers.')"
        " or m.endswith('generic_loading')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

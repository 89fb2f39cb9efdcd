"""Quantization while a model is loaded: what is quantized, what stays, what it is worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from engine_run import run_engine
from modelfleet_worker.engine.request import Request, SamplingParams
from modelfleet_worker.errors import ModelError
from modelfleet_worker.models.linear import Linear, QuantizedLinear, SplitLinear
from modelfleet_worker.models.llama import Llama
from modelfleet_worker.models.stored_tensor import StoredTensor
from modelfleet_worker.quantization.scheme import Quantization
from modelfleet_worker.quantization.weights import quantize
from quantized_models import asked, load, logits, model_of, tiny

PROMPT = (3, 14, 15, 92, 65, 35, 89)


def saved(folder: Path, **changes: Any) -> PreTrainedModel:
    model = tiny(**changes)
    model.save_pretrained(folder)
    return model


def twin(model: PreTrainedModel, quantization: Quantization) -> PreTrainedModel:
    """transformers' model with the same weights rounded and put back: dequantize, then linear."""
    head = model.lm_head.weight.data.clone()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and (
            scheme := quantization.scheme_of(name, module.in_features)
        ):
            weight = head if name == "lm_head" else module.weight.data
            module.weight = torch.nn.Parameter(quantize(weight, scheme).dequantized())
    return model


@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied head"])
@pytest.mark.parametrize(
    ("weights", "overrides"),
    [
        ("int8", ()),
        ("int4", ()),
        ("int4", ("lm_head=int4",)),
        ("int4", ("lm_head=none", "*.0.*=int8")),
        ("int4", ("*.v_proj=none", "*.up_proj=int8")),
        ("none", ("*.q_proj=int4",)),
    ],
)
def test_equals_transformers_with_the_same_weights_rounded(
    tmp_path: Path, weights: str, overrides: tuple[str, ...], tied: bool
):
    theirs = saved(tmp_path, tie_word_embeddings=tied)
    theirs = twin(theirs, asked(weights, overrides))
    loaded = load(tmp_path, weights=weights, overrides=overrides)
    request = Request(
        request_id="a", prompt_ids=PROMPT, max_tokens=16, sampling=SamplingParams(logprobs=1)
    )
    answer = run_engine(loaded.runner, [request], vocab_size=96).answers["a"]
    with torch.inference_mode():
        logits = theirs(torch.tensor([[*PROMPT, *answer.ids]])).logits[0, len(PROMPT) - 1 : -1]
    assert answer.ids == logits.argmax(-1).tolist()
    chosen = logits.log_softmax(-1).amax(-1).tolist()
    assert [p.chosen for p in answer.logprobs] == pytest.approx(chosen, abs=1e-3)
    assert len(set(answer.ids)) > 1


def kinds(model: Llama) -> dict[str, type[torch.nn.Module]]:
    return {
        name: type(module)
        for name, module in model.named_modules()
        if isinstance(module, Linear | QuantizedLinear | SplitLinear) and ".parts" not in name
    }


def test_merged_projections_are_split_only_where_their_formats_differ(tmp_path: Path):
    saved(tmp_path)
    loaded = load(tmp_path, weights="int4", overrides=("*.0.*.v_proj=int8", "lm_head=none"))
    found = kinds(model_of(loaded))
    assert found.pop("layers.0.self_attn.qkv_proj") is SplitLinear
    assert found.pop("lm_head") is Linear
    assert set(found.values()) == {QuantizedLinear}


def test_a_digest_is_of_the_quantization_too(tmp_path: Path):
    saved(tmp_path)
    settings: list[dict[str, Any]] = [
        {},
        {"weights": "int8"},
        {"weights": "int4"},
        {"weights": "int4", "group_size": 32},
        {"weights": "int4", "overrides": ("lm_head=none",)},
    ]
    digests = [load(tmp_path, **s).digest for s in settings]
    assert len(set(digests)) == len(settings)
    assert load(tmp_path, weights="int8").digest == digests[1]


def test_the_order_of_tensors_in_the_files_does_not_matter(tmp_path: Path):
    saved(tmp_path, tie_word_embeddings=True)
    first = load(tmp_path, weights="int4")
    weights = load_file(tmp_path / "model.safetensors")
    names = sorted(weights, reverse=True)
    (tmp_path / "model.safetensors").unlink()
    for i, name in enumerate(names):
        save_file({name: weights[name]}, tmp_path / f"{i}.safetensors")
    index = {"weight_map": {name: f"{i}.safetensors" for i, name in enumerate(names)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    second = load(tmp_path, weights="int4")
    assert second.digest == first.digest
    assert logits(second, torch.tensor(PROMPT)).equal(logits(first, torch.tensor(PROMPT)))


def test_an_override_that_matches_nothing_is_an_error(tmp_path: Path):
    saved(tmp_path)
    with pytest.raises(ModelError, match=r"override lm_heed=none matches no module"):
        load(tmp_path, weights="int8", overrides=("lm_heed=none",))


def test_no_more_than_one_layer_is_held_twice(tmp_path: Path, monkeypatch):
    """Weights wait for their projection only: the most that is mapped beside packed ones."""
    from modelfleet_worker.loading import model_builder

    saved(tmp_path, num_hidden_layers=8)
    most = 0
    add = model_builder.ModelBuilder.add

    def watched(self: model_builder.ModelBuilder, name: str, tensor: StoredTensor) -> None:
        nonlocal most
        add(self, name, tensor)
        parts = (part for gathered in self._expected.gathered for part in gathered.parts)
        most = max(most, sum(t.nbytes for part in parts for t in part.found.values()))

    monkeypatch.setattr(model_builder.ModelBuilder, "add", watched)
    load(tmp_path, weights="int8")
    layer = 4 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128)
    assert 0 < most <= layer

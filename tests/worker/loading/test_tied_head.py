"""A head that is stored and is not the embedding is the model's head, whatever config.json says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import generic_models
from modelfleet_worker.devices.native import library
from modelfleet_worker.devices.native.runner import NativeRunner
from modelfleet_worker.loading import generic
from modelfleet_worker.loading.checkpoint import Checkpoint
from modelfleet_worker.loading.tied_head import with_stored_head
from modelfleet_worker.models.config import read_config
from modelfleet_worker.quantization.scheme import Method
from modelfleet_worker.quantize.checkpoints import QuantizeOptions, quantize_checkpoint
from quantized_models import load, logits, model_of, tiny

IDS = torch.tensor([3, 14, 15, 92, 65, 35, 89])
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    path = folder / "model.safetensors"
    weights = {**load_file(path), **tensors}
    weights = {name: t.clone() for name, t in weights.items() if t is not None}
    save_file(weights, path, metadata={"format": "pt"})


def tied(folder: Path, head: str = "another", **config: Any) -> Path:
    """A checkpoint whose config ties its embeddings, and what it has as its head."""
    tiny(tie_word_embeddings=True, **config).save_pretrained(folder)
    embedding = load_file(folder / "model.safetensors")[EMBEDDING]
    torch.manual_seed(1)
    match head:
        case "another":
            change(folder, **{HEAD: 0.3 * torch.randn_like(embedding)})
        case "the same":
            change(folder, **{HEAD: embedding})
        case "alone":
            change(folder, **{HEAD: embedding, EMBEDDING: None})
    return folder


@torch.inference_mode()
def theirs(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model(IDS[None]).logits[0]


@pytest.mark.parametrize("head", ["none", "another", "the same", "alone"])
def test_equals_transformers(tmp_path: Path, head: str):
    folder = tied(tmp_path, head)
    loaded = load(folder)
    assert (logits(loaded, IDS) - theirs(folder)).abs().max() < 1e-4
    assert model_of(loaded).config.tied_embeddings == (head != "another")


@pytest.mark.parametrize(("head", "is_tied"), [("another", False), ("the same", True)])
def test_names_without_the_prefix_of_the_base_model_count(tmp_path: Path, head: str, is_tied: bool):
    folder = tied(tmp_path, head)
    weights = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("model."): tensor.clone() for name, tensor in weights.items()}
    save_file(bare, folder / "model.safetensors")
    found = with_stored_head(read_config(folder), Checkpoint(folder), stored=None)
    assert found.tied_embeddings is is_tied


def test_another_head_is_another_digest(tmp_path: Path):
    same = load(tied(tmp_path / "a", "the same")).digest
    assert load(tied(tmp_path / "b", "another")).digest != same


def test_a_head_that_is_quantized_while_it_is_loaded_is_the_stored_one(tmp_path: Path):
    folder = tied(tmp_path)
    found, expected = logits(load(folder, weights="int8"), IDS), theirs(folder)
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_the_compiled_step_has_it(tmp_path: Path):
    if library.load_library() is None:
        pytest.skip("this processor has no AVX-512 BF16")
    folder = tied(tmp_path, head_dim=32)
    loaded = load(folder, dtype="BFloat16")
    assert isinstance(loaded.runner, NativeRunner)
    expected = theirs(folder)
    assert (logits(loaded, IDS) - expected).norm() < 0.05 * expected.norm()


def test_a_quantized_checkpoint_keeps_it(tmp_path: Path):
    folder = tied(tmp_path / "original")
    target = tmp_path / "quantized"
    quantize_checkpoint(folder, target, QuantizeOptions(method=Method.INT8), lambda _: None)
    found, expected = logits(load(target), IDS), theirs(folder)
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_a_model_on_transformers_modules_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And its memory is that of the tensors that are stored, no third copy of the head."""
    model = generic_models.MixtralForCausalLM(
        generic_models.MixtralConfig(
            **generic_models.SIZES, num_local_experts=4, tie_word_embeddings=True
        )
    )
    model.save_pretrained(tmp_path)
    change(tmp_path, **{HEAD: 0.3 * torch.randn(generic_models.VOCAB, 64)})
    needed: list[int] = []
    monkeypatch.setattr(generic, "refuse_weights_beyond_memory", needed.append)
    loaded = generic_models.load(tmp_path)
    found = generic_models.teacher_forced(loaded, IDS.tolist())
    assert (found - theirs(tmp_path)).abs().max() < 1e-4
    stored = load_file(tmp_path / "model.safetensors").values()
    assert needed == [sum(t.numel() for t in stored) * 4]

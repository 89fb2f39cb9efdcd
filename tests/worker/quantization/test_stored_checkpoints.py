"""Checkpoints written by other packages' packers (checkpoints/make.py), and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modelfleet_worker.errors import ModelError
from modelfleet_worker.quantization.stored import stored_format
from quantized_models import load, logits

FOLDERS = sorted(p.parent for p in (Path(__file__).parent / "checkpoints").glob("*/config.json"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_means_what_its_packer_meant(folder: Path):
    expected = load_file(folder / "expected.safetensors")
    found = logits(load(folder), expected["prompt"])
    assert (found - expected["logits"]).abs().max() < 1e-4 * expected["logits"].abs().max()


def test_all_kinds_are_here():
    kinds = {folder.name for folder in FOLDERS}
    assert any("awq" in kind for kind in kinds)
    for layout in ("v1-asym", "v2-asym", "sym-desc-act", "8bit"):
        assert any("gptqmodel" in kind and layout in kind for kind in kinds)


def copied(name: str, folder: Path, **changes: Any) -> Path:
    """A checkpoint with other words in its quantization_config."""
    shutil.copytree(Path(__file__).parent / "checkpoints" / name, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"].update(changes)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "bitsandbytes"}, "'bitsandbytes', which is not supported; awq, gptq and"),
        ({}, "by None, which is not supported"),
        ("awq", "'awq': an object is expected"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "layout 'gemv' is not supported"),
        ({"quant_method": "awq", "bits": 3}, "3 bits is not supported, awq with 4 bits is"),
        ({"quant_method": "awq", "bits": 4, "group_size": 0}, "group_size 0"),
        ({"quant_method": "gptq", "bits": 3}, "gptq with 3 bits is not supported"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "layout 'marlin'"),
        ({"quant_method": "gptq", "bits": 4, "pack_dtype": "int8"}, "packing into 'int8'"),
        ({"quant_method": "compressed-tensors"}, "config_groups is None"),
        (
            {"quant_method": "compressed-tensors", "config_groups": {}, "format": "dense"},
            "'of no group' is not supported, pack-quantized or int-quantized is",
        ),
    ],
)
def test_a_format_that_is_not_known_is_refused_with_the_reason(config: Any, message: str):
    with pytest.raises(ModelError, match=message):
        stored_format({"quantization_config": config})


def compressed(weights: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32} | (
        weights or {}
    )
    group = {"weights": weights, "input_activations": changes.pop("activations", None)}
    layout = changes.pop("format", "pack-quantized")
    config = {"quant_method": "compressed-tensors", "format": layout}
    return {"quantization_config": {**config, "config_groups": {"group_0": group}, **changes}}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (compressed(format="float-quantized"), "format 'float-quantized' is not supported"),
        (compressed({"type": "float", "num_bits": 8}), "'float' weights of 8 bits"),
        (compressed({"strategy": "block"}), "a scale for each block"),
        (compressed(activations={"dynamic": False}), "a fixed scale of activations"),
        (compressed(kv_cache_scheme={"num_bits": 8}), "kv_cache_scheme is not supported, none is"),
        (compressed(transform_config={"a": 1}), "transform_config"),
    ],
)
def test_a_recipe_that_is_not_known_is_refused(config: dict[str, Any], message: str):
    with pytest.raises(ModelError, match=message):
        stored_format(config)


def test_a_checkpoint_is_not_quantized_twice(tmp_path: Path):
    folder = copied("awq-auto-round", tmp_path)
    with pytest.raises(ModelError, match=r"q_proj is quantized already \(awq\): ask for no"):
        load(folder, weights="int8")


PROJECTION = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("name", "suffix", "change", "message"),
    [
        ("awq-auto-round", "qweight", lambda t: t[:-1], r"qweight is \[63, 8\], but \[64, 8\]"),
        ("awq-auto-round", "scales", lambda t: t.to(torch.int32), "float16 or bfloat16 or"),
        ("awq-auto-round", "qzeros", lambda t: t.long(), "int64; int32 is expected"),
        ("gptq-auto-round-sym", "qweight", lambda t: t[:3], "neither 4 nor 8 bits of 64 inputs"),
        ("gptq-auto-round-sym", "scales", lambda t: t[:0], "cannot be 0 groups"),
        ("gptq-auto-round-sym", "qzeros", lambda t: t[:, :1], r"\[2, 1\], but \[2, 8\]"),
        ("gptq-gptqmodel-4bit-v2-asym-desc-act", "g_idx", lambda t: t * 0, "into each of 2 groups"),
        ("gptq-gptqmodel-4bit-v2-asym-desc-act", "g_idx", lambda t: t + 7, "into each of 2 groups"),
    ],
)
def test_tensors_that_lie_are_one_clear_error(tmp_path: Path, name, suffix, change, message):
    folder = copied(name, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{PROJECTION}.{suffix}"] = change(tensors[f"{PROJECTION}.{suffix}"]).contiguous()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=message):
        load(folder)


def without(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {n: t for n, t in tensors.items() if n != name}


def test_a_missing_tensor_is_named(tmp_path: Path):
    folder = copied("awq-auto-round", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    save_file(without(tensors, f"{PROJECTION}.qzeros"), folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"lacks 1 tensors, the first is .*q_proj\.qzeros"):
        load(folder)


def test_biases_of_zeros_that_packers_add_are_ignored_and_others_are_not(tmp_path: Path):
    folder = copied("gptq-auto-round-sym", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, f"{PROJECTION}.bias": torch.zeros(64)}, folder / "model.safetensors")
    load(folder)
    save_file({**tensors, f"{PROJECTION}.bias": torch.ones(64)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"q_proj\.bias does not belong"):
        load(folder)

"""Folders that are not what they should be, and the limits that come out of a load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import hostile_checkpoints
from modelfleet_worker.devices.warm_up import warm_up
from modelfleet_worker.engine.device import LoadedModel
from modelfleet_worker.errors import ModelError, TooLargeError
from modelfleet_worker.loading import sizing
from modelfleet_worker.loading.loader import load_model

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "dtype": "bfloat16",
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "eos_token_id": 2,
}
TOKEN_BYTES = 2 * 1 * 2 * 4 * 2  # keys and values, layers, KV heads, head size, bytes


def tensors() -> dict[str, Tensor]:
    return hostile_checkpoints.tensors(32)


def folder(path: Path, weights: dict[str, Tensor] | None = None, **config: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({**CONFIG, **config}))
    save_file(tensors() if weights is None else weights, path / "model.safetensors")
    return path


def load(path: Path, **changes: Any) -> LoadedModel:
    defaults: dict[str, Any] = {
        "max_sequences": 4,
        "max_batch_tokens": 64,
        "progress": lambda *_: None,
    }
    return load_model(path, **{**defaults, **changes})


def test_reports_progress_through_all_phases(tmp_path: Path):
    seen: list[tuple[str, float]] = []
    load(folder(tmp_path), progress=lambda phase, share: seen.append((phase, share)))
    assert list(dict.fromkeys(phase for phase, _ in seen)) == ["Weights", "Cache", "Warmup"]
    assert all(0 <= share <= 1 for _, share in seen)
    assert seen[-1] == ("Warmup", 1.0)


def test_a_load_that_is_told_to_stop_stops(tmp_path: Path):
    def stop(*_: object) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        load(folder(tmp_path), progress=stop)


def test_limits_come_from_the_model_and_the_cache(tmp_path: Path):
    loaded = load(folder(tmp_path))
    assert loaded.limits.context_length == 128
    assert loaded.limits.kv_tokens == 4 * 128  # more would be of no use
    assert loaded.limits.vocab_size == 32
    assert loaded.eos_token_ids == {2}
    small = load(tmp_path, context_length=100, kv_cache_bytes=70 * TOKEN_BYTES)
    assert (small.limits.context_length, small.limits.kv_tokens) == (100, 64)


def test_the_digest_is_of_all_that_decides_the_logits(tmp_path: Path):
    first = load(folder(tmp_path / "a")).digest
    changed = tensors()
    changed["lm_head.weight"][0, 0] += 1
    assert load(folder(tmp_path / "b")).digest == first
    assert load(folder(tmp_path / "c", changed)).digest != first
    assert load(folder(tmp_path / "d", rope_theta=5e5)).digest != first
    assert load(folder(tmp_path / "a"), dtype="Float32").digest != first


def test_a_model_whose_answers_depend_on_the_batch_is_not_loaded_as_deterministic(tmp_path: Path):
    with pytest.raises(ModelError, match="cannot be served deterministically"):
        load(folder(tmp_path), deterministic=True)


def test_derived_tensors_of_older_checkpoints_are_ignored(tmp_path: Path):
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(2)}
    load(folder(tmp_path, {**tensors(), **old}))


def test_the_folder_may_change_once_the_model_is_loaded(tmp_path: Path):
    loaded = load(folder(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")  # a mapped file would now be a SIGBUS
    warm_up(loaded.runner, 8)


def without(name: str) -> dict[str, Tensor]:
    return {n: t for n, t in tensors().items() if n != name}


@pytest.mark.parametrize(
    ("weights", "config", "message"),
    [
        (without("lm_head.weight"), {}, "lacks 1 tensors, the first is lm_head.weight"),
        ({**tensors(), "model.extra": torch.zeros(1)}, {}, "model.extra does not belong"),
        (None, {"vocab_size": 33}, r"weight is \[32, 16\], but config.json asks for \[33, 16\]"),
        (None, {"dtype": "int4"}, "dtype is 'int4'; float32, bfloat16, float16 are supported"),
        (
            {**tensors(), "lm_head.weight": torch.zeros(32, 16, dtype=torch.int8)},
            {},
            "lm_head.weight is int8; float32, bfloat16 or float16 is expected",
        ),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, weights, config: dict[str, Any], message: str):
    with pytest.raises(ModelError, match=message):
        load(folder(tmp_path, weights, **config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "int8"}, "unknown dtype 'int8': Auto, Float32, BFloat16, Float16"),
        ({"context_length": 129}, "contextLength is 129; this model's context goes from 2 to 128"),
        ({"context_length": 0}, "contextLength is 0"),
        ({"kv_cache_bytes": 100}, "room for no block: one of 16 tokens takes 512 bytes, 100 are"),
        ({"kv_cache_bytes": 2**60}, r"should have 1073741824.0 GiB, but .* GiB are available"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, changes: dict[str, Any], message: str):
    with pytest.raises(ModelError, match=message):
        load(folder(tmp_path), **changes)


def test_the_cache_leaves_room_to_compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is left when it has its size is what the worst load takes, and no less."""
    path = folder(tmp_path, max_position_embeddings=2**20)
    load(path)  # its warm-up is the first to import and start things

    def given(room: int, **changes: Any) -> int:
        monkeypatch.setattr(sizing, "available_memory", lambda: room)
        return load(path, **changes).limits.kv_tokens

    plenty, scarce = given(4 << 30), given(90 << 20)
    assert plenty == 4 * 2**20  # more would be of no use
    assert 0 < scarce < 2**20
    assert scarce * TOKEN_BYTES < 0.2 * (90 << 20)
    with pytest.raises(ModelError, match=r"to compute with are .* lower kvCacheMemory"):
        given(90 << 20, kv_cache_bytes=80 << 20)
    with pytest.raises(ModelError, match=r"to compute with are .* lower kvCacheMemory"):
        given(60 << 20)


def test_a_truncated_file(tmp_path: Path):
    path = folder(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match=r"is not a sound safetensors file .*Fetch it again"):
        load(tmp_path)


LIE = b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,4]}}'


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff" * 8 + b"{}", id="a header longer than the file"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\n", id="a Git LFS pointer"),
        pytest.param(len(LIE).to_bytes(8, "little") + LIE + b"1234", id="a shape of other data"),
    ],
)
def test_a_header_that_lies(tmp_path: Path, content: bytes):
    (folder(tmp_path) / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="is not a sound safetensors file"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["pytorch_model.bin"], r"only pickle files \(pytorch_model.bin\).*refused; convert them"),
        (["notes.txt"], "neither model.safetensors nor .*; found: config.json, notes.txt"),
    ],
)
def test_a_folder_without_safetensors(tmp_path: Path, files: list[str], message: str):
    (folder(tmp_path) / "model.safetensors").unlink()
    for name in files:
        (tmp_path / name).write_bytes(b"\x80\x04")
    with pytest.raises(ModelError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "has no weight_map"),
        ({"weight_map": {"a": "gone.safetensors"}}, "lacks gone.safetensors that"),
        ({"weight_map": {"a": "../model.safetensors"}}, "is not the name of a file beside it"),
        ({"weight_map": {"model.lost": "one.safetensors"}}, "promises model.lost, not there"),
    ],
)
def test_an_index_that_lies(tmp_path: Path, index: dict[str, Any], message: str):
    shard = folder(tmp_path) / "model.safetensors"
    shard.rename(tmp_path / "one.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=message):
        load(tmp_path)


def test_a_tensor_in_two_files(tmp_path: Path):
    folder(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").rename(tmp_path / "all.safetensors")
    save_file({"lm_head.weight": weights["lm_head.weight"]}, tmp_path / "more.safetensors")
    shards = {"lm_head.weight": "more.safetensors", "model.norm.weight": "all.safetensors"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(ModelError, match=r"lm_head\.weight is in two files"):
        load(tmp_path)


def test_says_what_the_model_takes(tmp_path: Path):
    loaded = load(folder(tmp_path), kv_cache_bytes=64 * TOKEN_BYTES)
    stored = sum(t.nbytes for t in tensors().values())
    memory = loaded.memory
    assert memory is not None
    assert memory.weights == pytest.approx(stored, rel=0.5)
    assert memory.cache == loaded.limits.kv_tokens * TOKEN_BYTES
    assert 0 < memory.working < memory.available


def test_what_does_not_fit_says_what_it_needs_and_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sizing, "available_memory", lambda: 1000)
    with pytest.raises(TooLargeError, match="the weights need") as caught:
        load(folder(tmp_path))
    assert caught.value.available == 1000
    assert caught.value.needed > 1000

"""What a folder of files is, told by its names before anything is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hub_double import Hub, serve_hub
from modelfleet_worker.errors import ModelError
from modelfleet_worker.storage.cache import Cache
from modelfleet_worker.storage.contents import check_weights, wanted_files
from modelfleet_worker.storage.fetching import fetch_model
from modelfleet_worker.storage.hub import HubModel
from modelfleet_worker.storage.oci import read_layers
from modelfleet_worker.storage.sources import check_folder

OTHERS = [
    pytest.param(
        ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"],
        "is a LoRA adapter .*merge it into its base model .*save_pretrained",
        id="a LoRA adapter",
    ),
    pytest.param(
        ["config.json", "llama.Q4_K_M.gguf"],
        "holds GGUF weights .*llama.Q4_K_M.gguf.*take the repository with .*safetensors",
        id="GGUF",
    ),
    pytest.param(
        ["config.json", "pytorch_model.bin"],
        "holds only pickled weights .*convert them to safetensors",
        id="pickles",
    ),
    pytest.param(
        ["model_index.json", "unet/config.json", "unet/model.safetensors", "vae/config.json"],
        "is a diffusers pipeline .*images",
        id="diffusers",
    ),
    pytest.param(
        ["config.json", "onnx/model_q4.onnx", "tokenizer.json"],
        "holds only an ONNX export .*take the repository",
        id="ONNX",
    ),
    pytest.param(["config.json", "tf_model.h5"], "TensorFlow or Flax", id="TensorFlow"),
    pytest.param(
        ["README.md", "8b/part/model.safetensors"], "only in folders below it", id="too deep"
    ),
    pytest.param(
        ["README.md", "config.json"],
        r"expected .*safetensors weights.* in .*, found README.md, config.json: name the folder",
        id="nothing that is known",
    ),
]


@pytest.mark.parametrize(("names", "message"), OTHERS)
def test_is_told_what_it_is_and_the_way_out(names: list[str], message: str):
    with pytest.raises(ModelError, match=message):
        check_weights("it", names)


INCOMPLETE = [
    pytest.param(
        ["pytorch_lora_weights.safetensors", "README.md"],
        "but no config.json: take",
        id="no config",
    ),
    pytest.param(
        ["config.json", "model.safetensors", "tokenizer_config.json"],
        "but no tokenizer .*add the one of its base model",
        id="no tokenizer",
    ),
]


@pytest.mark.parametrize(("names", "message"), [*OTHERS, *INCOMPLETE])
def test_of_a_hub_before_a_byte_is_downloaded(
    names: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with serve_hub(Hub(dict.fromkeys(names, b"{}"))) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with pytest.raises(ModelError, match=message):
            fetch_model(HubModel("owner/name", "main"), Cache(tmp_path), lambda phase, share: None)
        assert not any("/resolve/" in asked for asked in hub.requests)


@pytest.mark.parametrize(("names", "message"), OTHERS[:-2])
def test_of_a_folder(names: list[str], message: str, tmp_path: Path):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match=message):
        check_folder(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx", "a.gguf"],
        ["model-00001-of-00002.safetensors", "adapter_config.json", "adapter_model.safetensors"],
    ],
)
def test_a_model_with_exports_beside_it_is_one(names: list[str]):
    check_weights("it", names)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("llama.gguf", r"llama.gguf holds GGUF weights"),
        ("model.safetensors", r"found the file .*model.safetensors: name its folder"),
    ],
)
def test_a_file_is_no_folder(name: str, message: str, tmp_path: Path):
    (tmp_path / name).touch()
    with pytest.raises(ModelError, match=message):
        check_folder(tmp_path / name)


def test_what_mlx_quantized_is_told_before_the_weights_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = json.dumps({"quantization": {"group_size": 64, "bits": 4}}).encode()
    files = {"config.json": config, "tokenizer.json": b"{}", "model.safetensors": b"x" * 1000}
    with serve_hub(Hub(files)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with pytest.raises(ModelError, match="that MLX quantized"):
            fetch_model(HubModel("owner/name", "main"), Cache(tmp_path), lambda phase, share: None)
        assert not [asked for asked in hub.requests if "safetensors" in asked]
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.json").write_bytes(config)
    (tmp_path / "m/model.safetensors").touch()
    with pytest.raises(ModelError, match="that MLX quantized"):
        check_folder(tmp_path / "m")


def test_a_clone_without_its_large_files_is_told(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match=r"pointer of Git LFS.*git lfs pull"):
        check_folder(tmp_path)


@pytest.mark.parametrize(
    "kind", ["application/vnd.ollama.image.model", "application/vnd.docker.ai.gguf.v3"]
)
def test_what_ollama_and_docker_push_is_gguf(kind: str):
    layer = {"mediaType": kind, "digest": f"sha256:{'0' * 64}", "size": 1}
    with pytest.raises(ModelError, match="the artifact holds GGUF weights"):
        read_layers({"layers": [layer]})


def test_of_a_sentence_encoder_takes_how_its_vectors_are_made():
    names = ["config.json", "model.safetensors", "modules.json", "tokenizer.json"]
    others = ["onnx/config.json", "1_Pooling/notes.txt", "README.md"]
    assert wanted_files([*names, "1_Pooling/config.json", *others]) == [
        *names,
        "1_Pooling/config.json",
    ]
    assert wanted_files(["config.json", "1_Pooling/config.json"]) == ["config.json"]

"""Small sound models, and ways to make them lie."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "eos_token_id": 2,
}
QUANTIZED = Path(__file__).parent.parent / "worker/quantization/checkpoints"
DEEP = "[" * 200_000 + "]" * 200_000
DEEP_OBJECT = '{"a":' * 200_000 + "1" + "}" * 200_000
Q = "model.layers.0.self_attn.q_proj"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

Spoil = Callable[[Path], object]


def sound_model(folder: Path) -> Path:
    """One layer of random weights, and a tokenizer that knows bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(tensors(300), folder / WEIGHTS)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {
        character: i for i, character in enumerate(["<eos>", "<bos>", "<pad>", *alphabet])
    }
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<eos>", "<bos>", "<pad>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>"})
    )
    return folder


def quantized_model(name: str) -> Callable[[Path], Path]:
    """Copies a checkpoint of other packages' packers."""

    def copy(folder: Path) -> Path:
        shutil.copytree(QUANTIZED / name, folder)
        return folder

    return copy


def tensors(vocab: int) -> dict[str, Tensor]:
    """Of a model of one layer, always the same."""
    layer = "model.layers.0"
    shapes = {
        "model.embed_tokens.weight": (vocab, 16),
        f"{layer}.input_layernorm.weight": (16,),
        f"{layer}.self_attn.q_proj.weight": (16, 16),
        f"{layer}.self_attn.k_proj.weight": (8, 16),
        f"{layer}.self_attn.v_proj.weight": (8, 16),
        f"{layer}.self_attn.o_proj.weight": (16, 16),
        f"{layer}.post_attention_layernorm.weight": (16,),
        f"{layer}.mlp.gate_proj.weight": (24, 16),
        f"{layer}.mlp.up_proj.weight": (24, 16),
        f"{layer}.mlp.down_proj.weight": (16, 24),
        "model.norm.weight": (16,),
        "lm_head.weight": (vocab, 16),
    }
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randn(s, generator=generator).bfloat16() for n, s in shapes.items()}


def holds(name: str, content: bytes | str | object) -> Spoil:
    """A file of the folder holds this: bytes, text, or an object as JSON."""

    def spoil(folder: Path) -> None:
        match content:
            case bytes():
                (folder / name).write_bytes(content)
            case str():
                (folder / name).write_text(content)
            case _:
                (folder / name).write_text(json.dumps(content))

    return spoil


def config(**changes: Any) -> Spoil:
    """config.json says something else."""

    def spoil(folder: Path) -> None:
        said = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**said, **changes}))

    return spoil


def quantization(**changes: Any) -> Spoil:
    """quantization_config says something else."""

    def spoil(folder: Path) -> None:
        said = json.loads((folder / "config.json").read_text())
        said["quantization_config"] |= changes
        (folder / "config.json").write_text(json.dumps(said))

    return spoil


def weights(header: object, data: bytes = b"", *, length: int | None = None) -> Spoil:
    """A weight file by hand: the header (JSON, or bytes as they are), and what follows it."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    said = len(raw) if length is None else length
    return holds(WEIGHTS, said.to_bytes(8, "little") + raw + data)


def one_tensor(dtype: object, shape: object, offsets: object, data: bytes = b"") -> Spoil:
    """A weight file of one tensor."""
    entry = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    return weights({"model.norm.weight": entry}, data)


def header(change: Callable[[dict[str, Any]], object]) -> Spoil:
    """The sound file with a changed header."""

    def spoil(folder: Path) -> None:
        path = folder / WEIGHTS
        content = path.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        said = json.loads(content[8:end])
        change(said)
        raw = json.dumps(said).encode()
        path.write_bytes(len(raw).to_bytes(8, "little") + raw + content[end:])

    return spoil


def tensor(name: str, change: Callable[[Tensor], Tensor | None]) -> Spoil:
    """One tensor is another, or missing (None)."""

    def spoil(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        changed = change(tensors.pop(name))
        if changed is not None:
            tensors[name] = changed.contiguous()
        save_file(tensors, folder / WEIGHTS)

    return spoil


def json_file(name: str, change: Callable[[dict[str, Any]], object]) -> Spoil:
    """A JSON file of the folder, changed in place."""

    def spoil(folder: Path) -> None:
        said = json.loads((folder / name).read_text())
        change(said)
        (folder / name).write_text(json.dumps(said))

    return spoil

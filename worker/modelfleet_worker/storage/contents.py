"""What a folder of files is, by their names: a model that a worker reads, or what else.

Asked before anything is downloaded, so that what cannot be served is told in seconds, by its name
and with the way out.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ..errors import ModelError

CONFIG = "config.json"
_MODULES = "modules.json"
_MODULE_CONFIG = "[0-9]_[A-Z]*/config.json"

_WANTED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_TAKE = "take the repository with the model's own Hugging Face files (config.json, *.safetensors)"


def is_wanted(name: str) -> bool:
    """Whether a worker reads files of this name, whatever folder they are in."""
    return any(fnmatch.fnmatch(PurePosixPath(name).name, pattern) for pattern in _WANTED)


def wanted_files(names: Iterable[str]) -> list[str]:
    """What a worker reads: top-level files only; folders hold exports for other runtimes.

    Beside them, of a sentence encoder, how token vectors become one (1_Pooling/config.json).
    """
    found = sorted(names)
    wanted = [name for name in found if "/" not in name and is_wanted(name)]
    if _MODULES in wanted:
        wanted += [name for name in found if fnmatch.fnmatchcase(name, _MODULE_CONFIG)]
    if any(name.startswith("model") and name.endswith(".safetensors") for name in wanted):
        # Some repositories hold the same weights twice, in their vendor's own layout.
        wanted = [name for name in wanted if not name.startswith("consolidated")]
    return wanted


def check_weights(where: Path | str, names: Iterable[str]) -> None:
    """Raises ModelError unless the files are a model in safetensors: says what they are instead.

    `names` are relative to the model's folder; those below it only tell what it is.
    """
    found = sorted(names)
    refuse_other_kinds(where, found)
    if any(_is_weights(name) for name in found):
        return
    for kind in _WITHOUT_SAFETENSORS:
        if files := [name for name in found if kind.has(name)]:
            raise ModelError(kind.sentence(where, files))
    shown = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
    raise ModelError(
        f"expected *.safetensors weights, config.json and a tokenizer in {where}, found "
        f"{shown or 'nothing'}: name the folder that holds them, or {_TAKE}"
    )


def check_complete(where: str, names: Iterable[str]) -> None:
    """Raises ModelError unless all is there that a worker needs: asked before a download."""
    found = sorted(names)
    check_weights(where, found)
    if CONFIG not in found:
        raise ModelError(
            f"{where} has weights, but no config.json: {_TAKE}, or add the one of its base model"
        )
    if not any(name in found for name in _TOKENIZERS):
        raise ModelError(
            f"{where} has weights, but no tokenizer ({', '.join(_TOKENIZERS)}): add the one of its "
            "base model"
        )


def refuse_other_kinds(where: Path | str, names: Iterable[str]) -> None:
    """Raises ModelError for what is no language model although it may have safetensors."""
    found = sorted(names)
    for kind in _WITH_SAFETENSORS:
        if files := [name for name in found if kind.has(name)]:
            raise ModelError(kind.sentence(where, files))
    adapters = [name for name in found if name.startswith("adapter_")]
    if "adapter_config.json" in adapters and not any(
        _is_weights(name) and name not in adapters for name in found
    ):
        raise ModelError(
            f"{where} is a LoRA adapter ({', '.join(adapters[:3])}), which changes a model and is "
            "none: merge it into its base model (peft: merge_and_unload(), then save_pretrained()) "
            "and serve that folder"
        )


def refuse_other_weights(where: Path | str, config: Path) -> None:
    """Raises ModelError if a config.json says that the safetensors are another library's."""
    try:
        raw = json.loads(config.read_bytes())
    except (OSError, ValueError, RecursionError):
        return  # reading the model tells what is wrong with it
    quantization = raw.get("quantization") if isinstance(raw, dict) else None
    if (
        isinstance(quantization, dict)
        and {"bits", "group_size"} <= quantization.keys()
        and "quant_method" not in quantization
    ):
        raise ModelError(
            f"{where} has weights that MLX quantized (config.json: quantization), which only MLX "
            f"reads: {_TAKE}, and spec.quantization for fewer bits"
        )


def refuse_file(path: Path) -> None:
    """Raises ModelError for a path to a file, where a model's folder is expected."""
    if path.name.lower().endswith(".gguf"):
        raise ModelError(_GGUF.sentence(path, [path.name]))
    if _is_weights(path.name):
        raise ModelError(f"expected a model folder, found the file {path}: name its folder")


def _is_weights(name: str) -> bool:
    return "/" not in name and name.endswith(".safetensors")


class _Kind:
    """Files by which a kind of folder is known, and what to tell a user who names one."""

    def __init__(self, patterns: tuple[str, ...], text: str) -> None:
        self._patterns = patterns
        self._text = text

    def has(self, name: str) -> bool:
        """Whether a file is one of this kind. Patterns match whole paths; * takes slashes, too."""
        return any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in self._patterns)

    def sentence(self, where: Path | str, files: list[str]) -> str:
        """What it is, and the way out."""
        return f"{where} {self._text.format(files=', '.join(files[:3]), take=_TAKE)}"


_GGUF = _Kind(
    ("*.gguf",),
    "holds GGUF weights ({files}), the format of llama.cpp and Ollama: {take}, and "
    "spec.quantization for fewer bits",
)
_WITH_SAFETENSORS = (
    _Kind(
        ("model_index.json",),
        "is a diffusers pipeline ({files}), which makes images: only models that write text are "
        "served",
    ),
)
_WITHOUT_SAFETENSORS = (
    _GGUF,
    _Kind(
        ("*.onnx", "*.onnx_data"),
        "holds only an ONNX export ({files}): {take}",
    ),
    _Kind(
        ("openvino_model.*", "*/openvino_model.*"),
        "holds only an OpenVINO export ({files}): {take}",
    ),
    _Kind(
        ("tf_model*.h5", "flax_model*.msgpack"),
        "holds only weights of TensorFlow or Flax ({files}): load the model with transformers and "
        "call save_pretrained(), which writes safetensors",
    ),
    _Kind(
        _PICKLES,
        "holds only pickled weights ({files}), which can run any code when read: convert them to "
        "safetensors (load the model with transformers where you trust it, and call "
        "save_pretrained())",
    ),
    _Kind(
        ("*/*.safetensors",),
        "holds weights only in folders below it ({files}): name a source whose files are at its "
        "top",
    ),
)

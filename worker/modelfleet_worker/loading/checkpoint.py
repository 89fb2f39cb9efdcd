"""Reads the tensors of a safetensors folder, once and in file order, and digests them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
import xxhash
from safetensors import SafetensorError, safe_open

from ..errors import ModelError
from ..models.config import read_json

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class Checkpoint:
    """The safetensors files of one folder; nothing stays mapped after it was read.

    `digest` is complete when `tensors` is exhausted. It covers names, types, shapes and bytes as
    they are stored, and does not depend on how they are spread over files.
    """

    def __init__(self, folder: Path) -> None:
        self._files = _files(folder)
        self._digests: dict[str, str] = {}
        self.folder = folder
        self.total_bytes = sum(_size(path) for path in self._files)

    def names(self) -> frozenset[str]:
        """Of all tensors, from the files' headers. Raises ModelError."""
        return frozenset(name for path in self._files for name in _keys(path))

    def dtype(self) -> torch.dtype:
        """The type of the first tensor of the first file that is of plain floats.

        What transformers takes where config.json names none. Raises ModelError.
        """
        return _first_float(min(self._files))

    def elements(self) -> int:
        """Numbers in all tensors together, from the files' headers. Raises ModelError."""
        return sum(_elements(path) for path in self._files)

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and tensor, mapped from the file: copy what you keep. Raises ModelError."""
        for path, expected in self._files.items():
            try:
                with safe_open(path, framework="pt") as opened:
                    names = set(opened.keys())
                    if missing := sorted(expected - names):
                        raise ModelError(f"{path}: {_INDEX} promises {_some(missing)}, not there")
                    for name in opened.offset_keys():
                        tensor = opened.get_tensor(name)
                        self._record(name, tensor)
                        yield name, tensor
            except (SafetensorError, OSError) as error:
                raise _unsound(path, error) from error

    def read(self, *names: str) -> list[torch.Tensor]:
        """Some tensors, mapped, by their names; `digest` does not count them. Raises ModelError."""
        found: dict[str, torch.Tensor] = {}
        for path in self._files:
            try:
                with safe_open(path, framework="pt") as opened:
                    for name in set(opened.keys()).intersection(names):
                        found[name] = opened.get_tensor(name)
            except (SafetensorError, OSError) as error:
                raise _unsound(path, error) from error
        return [found[name] for name in names]

    def _record(self, name: str, tensor: torch.Tensor) -> None:
        if name in self._digests:
            raise ModelError(f"the tensor {name} is in two files of the folder")
        content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
        self._digests[name] = (
            f"{tensor.dtype} {list(tensor.shape)} {xxhash.xxh3_128_hexdigest(content)}"
        )

    @property
    def digest(self) -> str:
        """Hex, of all tensors read."""
        lines = "\n".join(f"{name} {digest}" for name, digest in sorted(self._digests.items()))
        return xxhash.xxh3_128_hexdigest(lines.encode())


def _keys(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise _unsound(path, error) from error


def _elements(path: Path) -> int:
    try:
        with safe_open(path, framework="pt") as opened:
            return sum(math.prod(opened.get_slice(key).get_shape()) for key in opened.keys())  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError) as error:
        raise _unsound(path, error) from error


def _first_float(path: Path) -> torch.dtype:
    try:
        with safe_open(path, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118  # no mapping
                if (dtype := _FLOATS.get(opened.get_slice(key).get_dtype())) is not None:
                    return dtype
    except (SafetensorError, OSError) as error:
        raise _unsound(path, error) from error
    return torch.float32


def _unsound(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{path} is not a sound safetensors file ({error}): truncated or damaged? Fetch it again"
    )


def _files(folder: Path) -> dict[Path, set[str]]:
    """The files to read, and the tensors that the index promises in each.

    As transformers: a whole file counts, whatever index lies beside it.
    """
    index = folder / _INDEX
    # Files only: to open a pipe would wait for its writer for ever.
    if (folder / _SINGLE).is_file():
        return {folder / _SINGLE: set()}
    if not index.is_file():
        raise ModelError(_explain_absence(folder))
    shards: dict[Path, set[str]] = {}
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} has no weight_map: it should say which tensor is in which file")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard or shard in ("", "..", "."):
            raise ModelError(f"{index}: {shard!r} is not the name of a file beside it")
        shards.setdefault(folder / shard, set()).add(name)
    if lost := sorted(path.name for path in shards if not path.is_file()):
        raise ModelError(f"{folder} lacks {_some(lost)} that {_INDEX} lists: fetch it again")
    return shards


def _explain_absence(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is not a folder: a Hugging Face model folder is expected"
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        return (
            f"{folder} holds no {_SINGLE}, only pickle files ({_some(pickles)}), which can run any"
            " code and are refused; convert them: load the model with transformers where you trust"
            " it and call save_pretrained()"
        )
    found = sorted(path.name for path in folder.iterdir())
    return f"{folder} holds neither {_SINGLE} nor {_INDEX}; found: {_some(found) or 'nothing'}"


def _size(path: Path) -> int:
    return path.stat().st_size


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown

"""Reads the tensors of a safetensors folder, mapped and in file order, and digests them."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from safetensors import SafetensorError, safe_open

from ..errors import ModelError
from ..models.config import read_json
from ..models.float_type import FloatType
from ..models.stored_tensor import TYPES, Array, StoredTensor

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class Checkpoint:
    """The safetensors files of one folder; none stays mapped once its tensors are let go."""

    def __init__(self, folder: Path) -> None:
        self._files = _files(folder)
        self._headers: dict[Path, list[_Entry]] = {}
        self.folder = folder
        self.total_bytes = sum(_size(path) for path in self._files)

    def names(self) -> frozenset[str]:
        """Of all tensors, from the files' headers. Raises ModelError."""
        return frozenset(entry.name for path in self._files for entry in self._entries(path))

    def dtype(self) -> FloatType:
        """The type of the first tensor of the first file that is of plain floats.

        What transformers takes where config.json names none. Raises ModelError.
        """
        floats = set(FloatType)
        entries = sorted(self._entries(min(self._files)), key=lambda entry: entry.name)
        found = (FloatType(e.dtype) for e in entries if e.dtype in floats)
        return next(found, FloatType.FLOAT32)

    def elements(self) -> int:
        """Numbers in all tensors together, from the files' headers. Raises ModelError."""
        return sum(math.prod(e.shape) for path in self._files for e in self._entries(path))

    def prefetch(self) -> None:
        """Has the system read the files, as far as it likes, while something else is done."""
        if not hasattr(os, "posix_fadvise"):
            return
        for path in self._files:
            with contextlib.suppress(OSError), path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def tensors(self) -> Iterator[tuple[str, StoredTensor]]:
        """Name and tensor, file by file. Raises ModelError."""
        seen = set[str]()
        for path, expected in self._files.items():
            entries = self._entries(path)
            if missing := sorted(expected - {entry.name for entry in entries}):
                raise ModelError(f"{path}: {_INDEX} promises {_some(missing)}, not there")
            content = _mapped(path, entries)
            for entry in entries:
                if entry.name in seen:
                    raise ModelError(f"the tensor {entry.name} is in two files of the folder")
                seen.add(entry.name)
                yield entry.name, entry.of(content)

    def read(self, *names: str) -> list[StoredTensor]:
        """Some tensors by their names. Raises ModelError."""
        found: dict[str, StoredTensor] = {}
        for path in self._files:
            wanted = [entry for entry in self._entries(path) if entry.name in names]
            if wanted:
                content = _mapped(path, wanted)
                found |= {entry.name: entry.of(content) for entry in wanted}
        return [found[name] for name in names]

    def _entries(self, path: Path) -> list[_Entry]:
        if path not in self._headers:
            self._headers[path] = _header(path)
        return self._headers[path]


class WeightsDigest:
    """Of names, types, shapes and bytes as they are stored, however they are spread over files."""

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}

    def add(self, name: str, tensor: StoredTensor) -> None:
        """Reads all of it."""
        content = xxhash.xxh3_128_hexdigest(tensor.array.reshape(-1).view(np.uint8).data)
        self._digests[name] = f"torch.{tensor.dtype} {list(tensor.shape)} {content}"

    def __str__(self) -> str:
        """Hex, of all tensors that were added."""
        lines = "\n".join(f"{name} {digest}" for name, digest in sorted(self._digests.items()))
        return str(xxhash.xxh3_128_hexdigest(lines.encode()))


@dataclass(frozen=True, slots=True)
class _Entry:
    """What a header says of a tensor."""

    name: str
    dtype: str  # torch's name
    kind: Any  # numpy's type
    shape: tuple[int, ...]
    offset: int  # in the file

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * int(np.dtype(self.kind).itemsize)

    def of(self, content: mmap.mmap | bytes) -> StoredTensor:
        if not self.nbytes:  # at the end of a file there is nothing to look at
            return StoredTensor(self.dtype, _empty(self.name, self.shape, self.kind))
        flat = np.frombuffer(content, self.kind, math.prod(self.shape), self.offset)
        return StoredTensor(self.dtype, flat.reshape(self.shape))


def _header(path: Path) -> list[_Entry]:
    """In the order of the file. Its library checks that tensors follow one another without gaps."""
    try:
        with path.open("rb") as file:
            offset = 8 + int.from_bytes(file.read(8), "little")
        entries = []
        with safe_open(path, framework="np") as opened:
            for name in opened.offset_keys():
                told = opened.get_slice(name)
                shape = tuple(told.get_shape())
                dtype, kind = _type_of(path, name, told.get_dtype())
                entries.append(_Entry(name, dtype, kind, shape, offset))
                offset += entries[-1].nbytes
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is not a sound safetensors file ({error}): truncated or damaged? Fetch it"
            " again"
        ) from error
    return entries


def _empty(name: str, shape: tuple[int, ...], kind: Any) -> Array:
    try:
        return np.empty(shape, kind)
    except ValueError as error:  # zero times more than there are addresses
        raise ModelError(f"the tensor {name} is {list(shape)}: {error}") from error


def _type_of(path: Path, name: str, stored: str) -> tuple[str, Any]:
    if stored not in TYPES:
        raise ModelError(f"{path}: the tensor {name} is of the type {stored}, which is not read")
    return TYPES[stored]


def _mapped(path: Path, entries: list[_Entry]) -> mmap.mmap | bytes:
    """Writing to it changes a copy, never the file."""
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if any(entry.offset + entry.nbytes > len(mapped) for entry in entries):
        raise ModelError(f"{path} has become shorter: is it being written?")
    return mapped


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

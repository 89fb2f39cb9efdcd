"""Weight files and indices that lie, and what is said about them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from hostile_checkpoints import (
    DEEP,
    DEEP_OBJECT,
    INDEX,
    WEIGHTS,
    Q,
    Spoil,
    header,
    holds,
    one_tensor,
    tensor,
    weights,
)

UNSOUND = "is not a sound safetensors file"
NORM = "model.norm.weight"


def shard(name: object) -> dict[str, Any]:
    return {"weight_map": {NORM: name}}


def index(content: bytes | str | object) -> Spoil:
    """An index in the place of the whole file, which would count more."""

    def spoil(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        holds(INDEX, content)(folder)

    return spoil


def offsets(*found: int):
    return header(lambda said: said[NORM].update(data_offsets=list(found)))


FILES: dict[str, tuple[Spoil, str]] = {
    "an empty file": (holds(WEIGHTS, b""), UNSOUND),
    "seven bytes": (holds(WEIGHTS, b"\0" * 7), UNSOUND),
    "only zeros": (holds(WEIGHTS, b"\0" * 4096), UNSOUND),
    "a header beyond the file": (weights({}, length=4096), UNSOUND),
    "a header of 2^60 bytes": (weights({}, length=2**60), UNSOUND),
    "a header of 2^63 bytes": (weights({}, length=2**63), UNSOUND),
    "a header of 2^64 - 1 bytes": (weights({}, length=2**64 - 1), UNSOUND),
    "a header that is no JSON": (weights(b"{not JSON at all"), UNSOUND),
    "a header that is no UTF-8": (weights(b"\xff\xfe{}"), UNSOUND),
    "a header that is a list": (weights([1, 2]), UNSOUND),
    "a header nested deeply": (weights(DEEP.encode()), UNSOUND),
    "an entry nested deeply": (weights(DEEP_OBJECT.encode()), UNSOUND),
    "an entry that is a number": (weights({NORM: 5}), UNSOUND),
    "an entry without a shape": (weights({NORM: {"dtype": "F32"}}), UNSOUND),
    "an unknown dtype": (one_tensor("F33", [1], [0, 4], b"1234"), UNSOUND),
    "a dtype that is no text": (one_tensor(32, [1], [0, 4], b"1234"), UNSOUND),
    "offsets beyond the file": (one_tensor("F32", [16], [0, 64], b"1234"), UNSOUND),
    "offsets beyond the file, by far": (one_tensor("F32", [2**58], [0, 2**60]), UNSOUND),
    "offsets of 2^64 and more": (one_tensor("F32", [1], [2**64, 2**64 + 4]), UNSOUND),
    "negative offsets": (one_tensor("F32", [1], [-4, 0], b"1234"), UNSOUND),
    "an end before its start": (one_tensor("F32", [1], [4, 0], b"1234"), UNSOUND),
    "three offsets": (one_tensor("F32", [1], [0, 4, 8], b"12345678"), UNSOUND),
    "tensors that overlap": (offsets(0, 32), UNSOUND),
    "a gap between tensors": (
        weights({NORM: {"dtype": "U8", "shape": [1], "data_offsets": [3, 4]}}, b"1234"),
        UNSOUND,
    ),
    "a shape of other data": (one_tensor("F32", [9], [0, 4], b"1234"), UNSOUND),
    "a negative shape": (one_tensor("F32", [-1], [0, 4], b"1234"), UNSOUND),
    "a shape that overflows": (one_tensor("F32", [2**40, 2**40], [0, 4], b"1234"), UNSOUND),
    "a shape that overflows to its size": (one_tensor("U8", [2**63, 2], [0, 0]), UNSOUND),
    "a shape of zero times much": (one_tensor("F32", [0, 2**62, 2**62], [0, 0]), "."),
    "a shape of fractions": (one_tensor("F32", [1.5], [0, 6], b"123456"), UNSOUND),
    "a truncated file": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-10]),
        UNSOUND,
    ),
    "bytes behind the last tensor": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes() + b"1234"),
        UNSOUND,
    ),
    "a folder where the file should be": (
        lambda folder: ((folder / WEIGHTS).unlink(), (folder / WEIGHTS).mkdir()),
        "holds neither model.safetensors nor",
    ),
    "a pipe where the file should be": (
        lambda folder: ((folder / WEIGHTS).unlink(), os.mkfifo(folder / WEIGHTS)),
        "holds neither model.safetensors nor",
    ),
    "no tensors at all": (weights({}), "lacks 12 tensors"),
    "a name twice": (
        weights(
            b'{"model.norm.weight":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
            b'"model.norm.weight":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}',
            b"123",
        ),
        UNSOUND,
    ),
    "a name of a megabyte": (
        weights({"x" * 2**20: {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"1"),
        "does not belong to the architecture",
    ),
    "a missing tensor": (tensor(NORM, lambda _: None), f"the first is {NORM}"),
    "integers for weights": (tensor(NORM, torch.Tensor.long), f"{NORM} is int64; float32"),
    "booleans for weights": (tensor(NORM, torch.Tensor.bool), f"{NORM} is bool; float32"),
    "8-bit floats for weights": (
        tensor(NORM, lambda t: t.to(torch.float8_e4m3fn)),
        f"{NORM} is float8_e4m3fn; float32",
    ),
    "complex numbers for weights": (
        tensor(NORM, lambda t: t.to(torch.complex64)),
        f"{NORM} is complex64; float32",
    ),
    "a scalar for weights": (
        tensor(NORM, lambda t: t[0].clone()),
        rf"{NORM} is \[\], but config.json asks for \[16\]",
    ),
    "no rows": (tensor(f"{Q}.weight", lambda t: t[:0]), r"is \[0, 16\], but .* \[16, 16\]"),
    "rows and columns swapped": (
        tensor("model.layers.0.self_attn.k_proj.weight", lambda t: t.t()),
        r"is \[16, 8\], but .* \[8, 16\]",
    ),
    "eight dimensions": (
        tensor(NORM, lambda t: t.view(1, 1, 1, 1, 1, 1, 1, 16)),
        r"is \[1, 1, 1, 1, 1, 1, 1, 16\], but .* \[16\]",
    ),
    "an index that is a list": (index([1]), "holds list, a JSON object is expected"),
    "an index that is no JSON": (index("{"), "cannot be read as JSON"),
    "an index nested deeply": (index(DEEP), "cannot be read as JSON"),
    "an index of a list": (index({"weight_map": [NORM]}), "has no weight_map"),
    "an index of numbers": (index(shard(5)), "5 is not the name of a file beside it"),
    "an index that names no file": (index(shard("")), "not the name of a file beside it"),
    "an index that names the folder above": (
        index(shard("..")),
        "not the name of a file beside it|lacks ",
    ),
    "an index that leads out": (
        index(shard("../sound/model.safetensors")),
        "not the name of a file beside it",
    ),
    "an index of an absolute path": (
        index(shard("/etc/passwd")),
        "not the name of a file beside it",
    ),
    "an index with a zero byte": (
        index(shard("a\0b")),
        "not the name of a file beside it|lacks ",
    ),
    "an index of a file that is not there": (index(shard("b.safetensors")), "lacks b.safe"),
    "an index of a file that is no weights": (index(shard("config.json")), UNSOUND),
}

"""Weights in the layout of projections.h, made by packing.cpp. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import Any, Final

import numpy as np

from . import layouts, library
from .pages import aligned

Array = np.ndarray[Any, Any]

LANES, PAIR = 16, 32  # outputs of a block of scales; outputs that lie side by side
_AWAY = 0.002  # seconds, by which a thread has left the interpreter for compiled code
_TYPES: Final = {"bfloat16": 0, "float16": 1, "float32": 2, "int8": 3}  # as in packing.cpp


@dataclass(frozen=True, slots=True)
class Rows:
    """Some outputs of a projection: `array` [outputs, inputs], of bfloat16 its bits."""

    dtype: str  # bfloat16, float16 or float32; int8: codes that were rounded before
    array: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What weights are rounded to, or were; G groups of inputs share a scale."""

    bits: int  # 4 or 8
    group: int
    symmetric: bool  # without zero points
    scales: Array | None = None  # float32 [N, G], of codes that are given
    zeros: Array | None = None  # int16 [N, G]


class PackedLinear:
    """A projection: with memory of its own from the start, with content from `pack` on."""

    def __init__(
        self, rows: Sequence[Rows], grid: Grid | None, bias: PlainNumbers | None = None
    ) -> None:
        """Without a grid, weights are kept as bfloat16."""
        outputs, inputs = sum(len(r.array) for r in rows), int(rows[0].array.shape[1])
        bits, group = (16, inputs) if grid is None else (grid.bits, grid.group)
        padded = -(-outputs // PAIR) * PAIR
        self._rows = [Rows(r.dtype, _whole(r.array)) for r in rows]
        self._symmetric = grid is None or grid.symmetric
        self._codes = aligned(padded * inputs * bits // 8, np.uint8)
        self._scales: Array | None = None
        self._zeros: Array | None = None
        if grid is not None and grid.scales is not None:
            middle = 2 ** (bits - 1)
            self._scales = _lanes(grid.scales.astype(np.float32))
            if grid.zeros is not None:
                self._zeros = _lanes(grid.zeros.astype(np.int32) + middle)
        elif grid is not None:
            scales = padded * inputs // group
            self._scales = aligned(scales, np.float32)
            self._zeros = None if grid.symmetric else aligned(scales, np.int32)
        self._bias = bias
        self.struct = layouts.LinearStruct(
            self._codes.ctypes.data,
            _address(self._scales),
            _address(self._zeros),
            None if bias is None else bias.address,
            bits,
            group,
            outputs,
            inputs,
        )

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        kept = (self._codes, self._scales, self._zeros)
        return sum(array.nbytes for array in kept if array is not None)

    def packing(self) -> layouts.PackingStruct:
        """For packing.cpp; valid as long as this lives and is not packed."""
        parts = (layouts.PartStruct * len(self._rows))(
            *(
                layouts.PartStruct(r.array.ctypes.data, len(r.array), _TYPES[r.dtype])
                for r in self._rows
            )
        )
        return layouts.PackingStruct(
            parts=parts,
            num_parts=len(parts),
            bits=self.struct.bits,
            group=self.struct.group,
            inputs=self.struct.inputs,
            outputs=self.struct.outputs,
            symmetric=self._symmetric,
            codes=self.struct.codes,
            scales=self.struct.scales,
            zeros=self.struct.zeros,
        )

    def let_go(self) -> None:
        """Of what it was packed from."""
        self._rows.clear()


class PlainNumbers:
    """Embeddings, norms or biases as bfloat16: with memory from the start, filled by `pack`."""

    def __init__(self, dtype: str, array: Array) -> None:
        """`dtype` as in `Rows`."""
        self._source = [Rows(dtype, _whole(array))]
        self.array = aligned(array.size, np.uint16).reshape(array.shape)  # its bits
        self.address = int(self.array.ctypes.data)

    def packing(self) -> layouts.PackingStruct:
        """For packing.cpp; valid as long as this lives and is not packed."""
        [source] = self._source
        inputs = int(source.array.shape[-1])
        outputs = source.array.size // inputs
        part = layouts.PartStruct(source.array.ctypes.data, outputs, _TYPES[source.dtype])
        return layouts.PackingStruct(
            parts=(layouts.PartStruct * 1)(part),
            num_parts=1,
            inputs=inputs,
            outputs=outputs,
            codes=self.address,
        )

    def let_go(self) -> None:
        """Of what it was made from."""
        self._source.clear()


def pack(
    things: Sequence[PackedLinear | PlainNumbers],
    threads: int,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Fills them, and lets go of what they are made from.

    `meanwhile` is called beside it, and may start what holds the GIL for long.
    """
    loaded = library.load_library()
    if loaded is None:
        raise RuntimeError("there is no library: ask for it first")
    structs = [thing.packing() for thing in things]
    packings = (layouts.PackingStruct * len(structs))(*structs)
    filling = Thread(target=loaded.modelfleet_pack, args=(packings, len(structs), threads))
    filling.start()
    try:
        filling.join(_AWAY)
        meanwhile()
    finally:
        filling.join()
    for thing in things:
        thing.let_go()


def _whole(array: Array) -> Array:
    """Itself, if its rows follow one another and its numbers lie where C++ expects them."""
    return np.require(array, requirements=["C", "A"])


def _lanes(values: Array) -> Array:
    """[N, G] as [N / 16, G, 16], padded to whole pairs."""
    outputs, groups = values.shape
    padded = np.zeros((-(-outputs // PAIR) * PAIR, groups), values.dtype)
    padded[:outputs] = values
    lanes = aligned(padded.size, values.dtype)
    lanes[:] = padded.reshape(-1, LANES, groups).transpose(0, 2, 1).ravel()
    return lanes


def _address(array: Array | None) -> int | None:
    return None if array is None else int(array.ctypes.data)

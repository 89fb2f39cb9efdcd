"""Memory that a step reads and writes: zeros on lines of the cache, taken page by page."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np

_LINE = 64  # bytes
_PIECE = 2 << 20  # bytes; of a large page
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, since Linux 5.14
_MADVISE = ctypes.CDLL(None).madvise
_MADVISE.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def zeros(count: int, dtype: type[np.generic]) -> np.ndarray[Any, Any]:
    """On a line of the processor's cache: a vector that lies across two of them is read twice.

    Numpy leaves zeros to the system, which gives a page when it is first written.
    """
    return _on_a_line(np.zeros(count + _LINE // np.dtype(dtype).itemsize, dtype), count)


def aligned(count: int, dtype: Any) -> np.ndarray[Any, Any]:
    """The same with whatever is there."""
    return _on_a_line(np.empty(count + _LINE // np.dtype(dtype).itemsize, dtype), count)


def _on_a_line(padded: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    start = -(padded.ctypes.data % -_LINE) // padded.itemsize
    return padded[start : start + count]


class Pages:
    """Those of a KV cache whose layers follow one another, first the ones of the first blocks."""

    def __init__(self, cache: np.ndarray[Any, Any], layers: int) -> None:
        self._untouched = _pieces(cache, layers)
        self._taken = 0  # bytes

    def take(self, wanted: int) -> bool:
        """Takes a piece from the system.

        False: `wanted` bytes are taken, or it gives none.
        """
        piece = next(self._untouched, None) if self._taken < wanted else None
        if piece is None or _MADVISE(*piece, _POPULATE_WRITE) != 0:
            return False
        self._taken += piece[1]
        return True


def _pieces(cache: np.ndarray[Any, Any], layers: int) -> Iterator[tuple[int, int]]:
    """Address and size of each, in the order in which blocks are handed out."""
    start, layer_bytes = cache.ctypes.data, cache.nbytes // layers
    for offset in range(0, layer_bytes, _PIECE):
        for layer in range(layers):
            address = start + layer * layer_bytes + offset
            size = min(_PIECE, layer_bytes - offset)
            yield address - address % mmap.PAGESIZE, size + address % mmap.PAGESIZE

"""Memory that a step reads and writes: on lines of the cache, taken page by page.

A page is taken from the system when it is first written. A large one (2 MiB) may take milliseconds,
since the system has to find and to clear it. So a load takes small pages, and only those that the
first request needs; large ones are idle-time work, also for weights, which move onto them.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

_LINE = 64  # bytes
_PIECE = 2 << 20  # bytes; of a large page
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, since Linux 5.14
_HUGEPAGE = 14  # MADV_HUGEPAGE
_COLLAPSE = 25  # MADV_COLLAPSE, since Linux 6.1
_MADVISE = ctypes.CDLL(None).madvise
_MADVISE.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

Array = np.ndarray[Any, Any]


def zeros(count: int, dtype: Any) -> Array:
    """On a line of the processor's cache: a vector that lies across two of them is read twice."""
    cache: Array = _mapped(count * np.dtype(dtype).itemsize).view(dtype)[:count]
    return cache


def aligned(count: int, dtype: Any) -> Array:
    """The same of what is written once and lives as long as its model: weights."""
    return _weights.give(count * np.dtype(dtype).itemsize).view(dtype)


def _mapped(size: int) -> Array:
    """So many bytes or more from the system. Of numpy they would be on large pages at once."""
    size = max(_LINE, -(-size // _LINE) * _LINE)
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    return np.frombuffer(mmap.mmap(-1, size, flags=private), np.uint8)


class Arena:
    """Hands out memory piece after piece.

    A chunk of it goes back to the system with the last array that lies in it.
    """

    def __init__(self, chunk: int = 32 << 20) -> None:
        self._chunk = chunk
        self._lock = threading.Lock()
        self._current: weakref.ref[Array] | None = None
        self._next = 0  # where the free rest of the current chunk begins
        self._full: list[
            tuple[weakref.ref[Array], int]
        ] = []  # earlier ones, as far as they are used

    def give(self, size: int) -> Array:
        """So many bytes, on lines."""
        with self._lock:
            chunk = None if self._current is None else self._current()
            if chunk is None or self._next + size > len(chunk):
                self._full = [earlier for earlier in self._used() if earlier[0]() is not None]
                chunk = _mapped(max(size, self._chunk))
                self._current, self._next = weakref.ref(chunk), 0
            start = self._next
            self._next += -(-size // _LINE) * _LINE
            return chunk[start : start + size]

    def onto_large_pages(self) -> Iterator[None]:
        """Moves what was written onto large pages, one after another: each takes a millisecond.

        Ends where the system has none, or cannot.
        """
        with self._lock:
            used = self._used()
        for reference, size in used:
            if (chunk := reference()) is None:
                continue
            start = chunk.ctypes.data
            for page in range(-(-start // _PIECE) * _PIECE, start + size - _PIECE + 1, _PIECE):
                if not _advise(page, _PIECE, _COLLAPSE):
                    return
                yield

    def _used(self) -> list[tuple[weakref.ref[Array], int]]:
        return [*self._full, *([] if self._current is None else [(self._current, self._next)])]


_weights = Arena()
weights_onto_large_pages = _weights.onto_large_pages


class Pages:
    """Those of a KV cache whose layers follow one another, first the ones of the first blocks."""

    def __init__(self, cache: Array, layers: int) -> None:
        self._cache = cache.ctypes.data, cache.nbytes
        self._untouched = _pieces(cache, layers)
        self._taken = 0  # bytes

    def take(self, wanted: int) -> bool:
        """Takes a piece from the system.

        False: `wanted` bytes are taken, or it gives none.
        """
        if not self._taken:
            _advise(*self._cache, _HUGEPAGE)
        piece = next(self._untouched, None) if self._taken < wanted else None
        if piece is None or not _advise(*piece, _POPULATE_WRITE):
            return False
        self._taken += piece[1]
        return True


def _advise(address: int, size: int, advice: int) -> bool:
    start = address - address % mmap.PAGESIZE
    return bool(_MADVISE(start, size + address - start, advice) == 0)


def _pieces(cache: Array, layers: int) -> Iterator[tuple[int, int]]:
    """Address and size of each, in the order in which blocks are handed out."""
    start, layer_bytes = cache.ctypes.data, cache.nbytes // layers
    for offset in range(0, layer_bytes, _PIECE):
        for layer in range(layers):
            yield start + layer * layer_bytes + offset, min(_PIECE, layer_bytes - offset)

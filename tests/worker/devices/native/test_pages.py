"""Memory for weights and caches: on lines, given back, taken before it is needed."""

from __future__ import annotations

import ctypes
import gc
import mmap
import re
import weakref
from pathlib import Path

import numpy as np
import pytest

from modelfleet_worker.devices.native.pages import Arena, Pages, zeros


def address(array: np.ndarray) -> int:
    return int(array.ctypes.data)


def test_arrays_lie_on_lines_one_behind_the_other():
    arena = Arena()
    arrays = [arena.give(size) for size in (100, 1, 64, 4096)]
    assert all(address(a) % 64 == 0 for a in arrays)
    starts = [address(a) - address(arrays[0]) for a in arrays]
    assert starts == [0, 128, 192, 256]


def test_what_is_larger_than_a_chunk_has_one_of_its_own():
    arena = Arena(chunk=1 << 20)
    small, large, after = (arena.give(size) for size in (4096, 3 << 20, 4096))
    for array in (small, large, after):
        array[:] = 1
    assert len(large) == 3 << 20
    assert (small.sum(), large.sum(), after.sum()) == (4096, 3 << 20, 4096)


def test_a_chunk_goes_back_with_the_last_array_in_it():
    arena = Arena()
    first, second = arena.give(64), arena.give(64)
    memory = first.base
    assert isinstance(memory, np.ndarray)
    gone = weakref.ref(memory)
    del memory, first
    assert gone() is not None
    del second
    gc.collect()
    assert gone() is None


def test_idle_work_takes_the_first_blocks_of_each_layer():
    layers, size = 2, 8 << 20
    cache = zeros(layers * size, np.uint8)
    assert not resident(cache).any()
    idle = Pages(cache, layers)
    for _ in range(2):  # a piece of the first layer, one of the second
        assert idle.take(4 << 20)
    assert not idle.take(4 << 20)
    touched = resident(cache)
    assert touched[: 2 << 20 >> 12].all()
    assert touched[size >> 12 : (size + (2 << 20)) >> 12].all()
    assert not cache.any()


def test_idle_work_moves_weights_onto_large_pages():
    arena = Arena()
    small, large = arena.give(100), arena.give(8 << 20)
    small[:], large[:] = 1, np.arange(8 << 20) % 251
    if not kernel_collapses():
        pytest.skip("needs Linux 6.1 and a large page that is free")
    moved = sum(1 for _ in arena.onto_large_pages())
    assert 3 <= moved <= 4  # an end of it may lie on another page
    assert anonymous_large_pages(large) == moved * (2 << 20)
    assert (large == np.arange(8 << 20) % 251).all()
    assert (small == 1).all()


def test_a_chunk_that_went_back_is_not_moved():
    arena = Arena(chunk=4 << 20)
    arrays = [arena.give(4 << 20) for _ in range(2)]
    for array in arrays:
        array[:] = 1
    del arrays, array
    gc.collect()
    assert not list(arena.onto_large_pages())


def kernel_collapses() -> bool:
    """Asked of memory of its own."""
    memory = zeros(4 << 20, np.uint8)
    memory[:] = 1
    page = -(-address(memory) // (2 << 20)) * (2 << 20)
    madvise = ctypes.CDLL(None).madvise
    return madvise(ctypes.c_void_p(page), ctypes.c_size_t(2 << 20), 25) == 0


def anonymous_large_pages(array: np.ndarray) -> int:
    """Bytes of the mapping that the array lies in, by /proc/self/smaps."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if mapping := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(mapping[1], 16) <= address(array) < int(mapping[2], 16)
        elif inside and line.startswith("AnonHugePages:"):
            return int(line.split()[1]) << 10
    return 0


def resident(array: np.ndarray) -> np.ndarray:
    """Of each small page, whether the system has given it (bit 63 of /proc/self/pagemap)."""
    start = address(array)
    with Path("/proc/self/pagemap").open("rb", buffering=0) as file:
        file.seek(start // mmap.PAGESIZE * 8)
        entries = np.frombuffer(file.read(array.nbytes // mmap.PAGESIZE * 8), np.uint64)
    return entries >> np.uint64(63) == 1

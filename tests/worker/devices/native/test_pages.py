"""Memory for weights and caches: on lines, given back, taken before it is needed."""

from __future__ import annotations

import gc
import mmap
import weakref
from pathlib import Path

import numpy as np

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


def resident(array: np.ndarray) -> np.ndarray:
    """Of each small page, whether the system has given it (bit 63 of /proc/self/pagemap)."""
    start = address(array)
    with Path("/proc/self/pagemap").open("rb", buffering=0) as file:
        file.seek(start // mmap.PAGESIZE * 8)
        entries = np.frombuffer(file.read(array.nbytes // mmap.PAGESIZE * 8), np.uint64)
    return entries >> np.uint64(63) == 1

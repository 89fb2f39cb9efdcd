"""The compiled projections alone: one thread's CPU time a call, weights rotated beyond the cache.

`OMP_NUM_THREADS=1 python benchmarks/kernels.py` prints microseconds, GFLOP/s and GB/s.
"""

from __future__ import annotations

import sys
import time

import torch

from modelfleet_worker.devices.native.library import load_library
from modelfleet_worker.devices.native.linear import NativeLinear

SHAPES = ((576, 3072), (1536, 576), (576, 49152))  # SmolLM2's: inputs, outputs
ROWS = (1, 8, 16, 128)
ROTATED = 100e6  # bytes of weights
REPEATS = 7


def main() -> None:
    if load_library() is None:
        sys.exit("expected a compiler and a processor with AVX-512 BF16")
    torch.set_num_threads(1)
    for inputs, outputs in SHAPES:
        size = 2 * inputs * outputs
        copies = max(2, round(ROTATED / size))
        weights = [
            NativeLinear(torch.randn(outputs, inputs).to(torch.bfloat16)) for _ in range(copies)
        ]
        for rows in ROWS:
            x = torch.randn(rows, inputs).to(torch.bfloat16)
            best = min(round_of(weights, x) for _ in range(REPEATS))
            print(
                f"{inputs} x {outputs}, {rows:3} rows: {best * 1e6:7.1f} us, "
                f"{rows * size / best / 1e9:6.1f} GFLOP/s, {size / best / 1e9:5.1f} GB/s"
            )


def round_of(weights: list[NativeLinear], x: torch.Tensor) -> float:
    """CPU seconds a call."""
    begun = time.thread_time()
    for weight in weights:
        weight(x)
    return (time.thread_time() - begun) / len(weights)


if __name__ == "__main__":
    main()

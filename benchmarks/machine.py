"""What this machine can do at most: the limits that engines are held against."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

READ_BYTES = 512 * 2**20  # far beyond any cache
SIDE = 2048  # of the matrices that are multiplied


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Medians of many calls with a thread on each core; per second."""

    read_bytes: float
    operations: dict[str, float]  # of matrix products, by what they compute in


def limits() -> Limits:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    memory = torch.ones(READ_BYTES // 4)
    operations = 2 * SIDE**3
    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        matrix = torch.randn(SIDE, SIDE).to(dtype)
        rates[name] = operations / seconds(partial(torch.mm, matrix, matrix))
    narrow = torch.randint(-128, 127, (SIDE, SIDE), dtype=torch.int8)
    # As a linear layer has it: columns of the weight are contiguous.
    rates["int8"] = operations / seconds(partial(torch.ops.aten._int_mm, narrow, narrow.t()))  # noqa: SLF001
    return Limits(read_bytes=READ_BYTES / seconds(memory.sum), operations=rates)


def measured() -> Limits:
    """In a process of its own, which leaves no threads and no memory behind."""
    done = subprocess.run([sys.executable, __file__], check=True, stdout=subprocess.PIPE, text=True)
    return Limits(**json.loads(done.stdout))


def seconds(call: Callable[[], object]) -> float:
    """The median of a second of calls."""
    for _ in range(3):
        call()
    times = []
    end = time.perf_counter() + 1
    while time.perf_counter() < end:
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def description() -> str:
    """Processor, cores, memory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{processor()}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB"


def processor() -> str:
    """Its own name for itself."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


if __name__ == "__main__":
    print(json.dumps(asdict(limits())))

"""Our engine and its peers on the same work, in turn, on this machine: one table.

`make bench` runs it. Each engine is a process of its own (benchmarks/engines/), so that none warms
the other's caches or threads.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import workload as work

HERE = Path(__file__).parent
PEER = "transformers_generate"
OURS = "modelfleet_worker"


def run(engine: str, dtype: str, repeats: int, folder: str) -> work.Result:
    """One engine, start to end; its last line is its result."""
    job = work.Job(folder=folder, dtype=dtype, repeats=repeats, started=time.perf_counter())
    done = subprocess.run(
        [sys.executable, str(HERE / "engines" / f"{engine}.py"), json.dumps(asdict(job))],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(HERE)},
    )
    return work.Result(**json.loads(done.stdout.splitlines()[-1]))


def cpu() -> str:
    """The processor's own name for itself."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def table(dtype: str, repeats: int, ours: work.Result, peer: work.Result) -> str:
    """Markdown: the figures, and the ratios that the claims rest on."""
    rows = [
        f"{datetime.date.today()}, {cpu()}, {len(os.sched_getaffinity(0))} cores, "
        f"torch {version('torch')}, {dtype}, SmolLM2-135M-Instruct, "
        f"{work.PROMPT_TOKENS} + {work.NEW_TOKENS} tokens, medians of {repeats} "
        "(sequential: one run). Load average at the end "
        f"{os.getloadavg()[0]:.1f}.",
        "",
        "| engine | start to first token, s | TTFT, s | 1 stream, tok/s "
        "| 16 streams, tok/s | 16 in sequence, tok/s |",
        "|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {r.engine} {r.version} | {r.start_seconds:.1f} | {r.ttft_seconds:.3f} "
        f"| {r.decode_rate:.1f} | {r.batched_rate:.0f} | {r.sequential_rate:.1f} |"
        for r in (ours, peer)
    ]
    rows += [
        "",
        f"16 streams against its batched call: **{ours.batched_rate / peer.batched_rate:.2f}x**; "
        f"against sixteen calls in sequence: **{ours.batched_rate / peer.sequential_rate:.2f}x**; "
        f"1 stream: **{ours.decode_rate / peer.decode_rate:.2f}x**.",
    ]
    return "\n".join(rows)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("folder", help="Hugging Face folder of SmolLM2 (`make model` prints it)")
    options = arguments.parse_args()
    results = {}
    for engine in (PEER, OURS):
        print(f"measuring {engine}...", file=sys.stderr)
        results[engine] = run(engine, options.dtype, options.repeats, options.folder)
    print(table(options.dtype, options.repeats, results[OURS], results[PEER]))


if __name__ == "__main__":
    main()

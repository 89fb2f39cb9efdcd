"""Our engine and its peers on the same work, in turn, on this machine: one table.

`make bench` runs it, after `make peers` has built the peers; one that is missing is named so. Each
engine is a process of its own (benchmarks/engines/), so that none warms the other's caches or
threads. For an hour, nothing else should run.
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
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from textwrap import fill
from typing import Any

import machine
import peers
import report
import workload as work
from report import Entrant, Row

HERE = Path(__file__).parent
TRACE = HERE.parents[1] / "shared" / "traces" / "azure-llm-2023.csv.gz"
OURS = "our_worker"

LINE_UP = (
    *(Entrant(OURS, "Modelfleet", weights) for weights in ("bf16", "int8", "int4")),
    *(Entrant("llama_server", "llama-server", weights) for weights in ("BF16", "Q8_0", "Q4_1")),
    *(Entrant("vllm_server", "vLLM", "bf16", setup) for setup in ("all cores", "auto")),
    Entrant("transformers_generate", "transformers.generate", "bf16"),
)
ON_REQUEST = (  # with --only
    Entrant(OURS, "Modelfleet", "fp32"),
    Entrant("transformers_generate", "transformers.generate", "fp32"),
)


def measure(row: Row, job: work.Job) -> Row:
    """One start more of an engine, and all of the work."""
    if isinstance(row.results, str):
        return row
    if not peers.is_installed(row.entrant.engine):
        return replace(row, results="missing: `make peers`")
    if not row.results:
        row = replace(row, load=os.getloadavg()[0])
    try:
        return replace(row, results=[*row.results, run(row.entrant, job)])
    except subprocess.CalledProcessError as error:
        return replace(row, results=f"failed: its script ended with {error.returncode}")


def run(entrant: Entrant, job: work.Job) -> work.Result:
    """One start; its last line is its result."""
    job = replace(job, weights=entrant.weights, setup=entrant.setup, started=time.perf_counter())
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(HERE / "engines" / f"{entrant.engine}.py"), json.dumps(asdict(job))],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    fields: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    figures = {name: work.Figures(**figures) for name, figures in fields.pop("figures").items()}
    limits = machine.Limits(**fields.pop("limits"))
    return work.Result(**fields, figures=figures, limits=limits)


def text(folder: str, rows: Sequence[Row], load: float) -> str:
    """The whole page; `load` was the average of a minute before all."""
    results = [result for row in rows if not isinstance(row.results, str) for result in row.results]
    rounds = max((len(row.results) for row in rows if not isinstance(row.results, str)), default=0)
    paragraphs = [
        f"{datetime.date.today()}, {machine.description()}, Linux {platform.release()}, Python"
        f" {platform.python_version()}, torch {version('torch')}, commit {commit()};"
        f" {Path(folder).name}, medians of {rounds} rounds in which each engine was started once."
        f" Load average of a minute {load:.1f} before, {os.getloadavg()[0]:.1f} at the end.",
    ]
    if results:
        rates = {"GB/s read": [r.limits.read_bytes / 1e9 for r in results]} | {
            f"{name} G operations/s": [r.limits.operations[name] / 1e9 for r in results]
            for name in results[0].limits.operations
        }
        spreads = ", ".join(
            f"{median(found):.0f} {name} ({min(found):.0f} to {max(found):.0f})"
            for name, found in rates.items()
        )
        paragraphs.append(f"The machine, beside each engine: {spreads}.")
    paragraphs.append(report.LEGEND)
    tables = (report.figures(rows, folder), report.ratios(rows, OURS))
    return "\n\n".join([*(fill(p, width=120) for p in paragraphs), *filter(None, tables)])


def commit() -> str:
    """Of this checkout; marked if files differ from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        check=False,
        capture_output=True,
        cwd=HERE,
        text=True,
    )
    return done.stdout.strip() or "unknown"


def chosen(only: Sequence[str]) -> list[Entrant]:
    """Those whose script or title holds one of the words; without words, the line-up."""
    if not only:
        return list(LINE_UP)
    return [
        entrant
        for entrant in (*LINE_UP, *ON_REQUEST)
        if any(word.lower() in f"{entrant.engine} {entrant}".lower() for word in only)
    ]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", help="Hugging Face folder of SmolLM2 (`make model` prints it)")
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--only", nargs="+", default=(), help="llama_server, int8, 'vLLM bf16'")
    arguments.add_argument("--workloads", nargs="+", choices=work.WORKLOADS, default=work.WORKLOADS)
    arguments.add_argument("--trace", type=Path, default=TRACE, help="the Azure hour; see `traces`")
    arguments.add_argument("--write", type=Path, help="a Markdown file, written after each engine")
    options = arguments.parse_args()
    entrants = chosen(options.only)
    if not entrants:
        arguments.error(f"--only {' '.join(options.only)} names no engine")

    load = os.getloadavg()[0]
    traced = options.trace.exists()
    if not traced and "traces" in options.workloads:
        print(f"no {options.trace}: without the workload `traces`", file=sys.stderr)
    job = work.Job(
        folder=options.folder,
        workloads=[w for w in options.workloads if traced or w != "traces"],
        repeat=0,
        lengths=work.traced_lengths(options.trace) if traced else (),
    )
    rows = [Row(entrant, 0.0, ()) for entrant in entrants]
    # In rounds: a machine that is slow for some minutes is so for all of them.
    for repeat in range(options.repeats):
        for i, row in enumerate(rows):
            print(f"round {repeat + 1}: {row.entrant}...", file=sys.stderr, flush=True)
            rows[i] = measure(row, replace(job, repeat=repeat))
            if options.write:
                begun = [row for row in rows if row.results]
                options.write.write_text(f"{text(options.folder, begun, load)}\n")
    print(text(options.folder, rows, load))


if __name__ == "__main__":
    main()

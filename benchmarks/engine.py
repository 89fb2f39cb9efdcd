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


def measure(entrant: Entrant, job: work.Job) -> Row:
    """Starts the engine as often as there are repeats; the last start does the work."""
    load = os.getloadavg()[0]
    if not peers.is_installed(entrant.engine):
        return Row(entrant, load, "missing: `make peers`")
    try:
        starts = [run(entrant, replace(job, workloads=())) for _ in range(job.repeats - 1)]
        result = run(entrant, job)
    except subprocess.CalledProcessError as error:
        return Row(entrant, load, f"failed: its script ended with {error.returncode}")
    seconds = median(r.start_seconds for r in [*starts, result])
    return Row(entrant, load, replace(result, start_seconds=seconds))


def run(entrant: Entrant, job: work.Job) -> work.Result:
    """One start; its last line is its result."""
    job = replace(job, weights=entrant.weights, setup=entrant.setup, started=time.perf_counter())
    fields = last_line(HERE / "engines" / f"{entrant.engine}.py", json.dumps(asdict(job)))
    figures = {name: work.Figures(**figures) for name, figures in fields.pop("figures").items()}
    return work.Result(**fields, figures=figures)


def measured_limits() -> machine.Limits:
    return machine.Limits(**last_line(HERE / "machine.py"))


def last_line(script: Path, *arguments: str) -> dict[str, Any]:
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    fields: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return fields


def text(job: work.Job, rows: Sequence[Row], limits: machine.Limits, load: float) -> str:
    """The whole page; `load` was the average of a minute before all."""
    peaks = ", ".join(f"{rate / 1e9:.0f} {name}" for name, rate in limits.operations.items())
    paragraphs = (
        f"{datetime.date.today()}, {machine.description()}, Linux {platform.release()}, Python"
        f" {platform.python_version()}, torch {version('torch')}, commit {commit()};"
        f" {Path(job.folder).name}, medians of {job.repeats}. Load average of a minute {load:.1f}"
        f" before, {os.getloadavg()[0]:.1f} at the end.",
        f"The machine reads {limits.read_bytes / 1e9:.1f} GB/s and multiplies matrices at {peaks}"
        " G operations/s (the best of medians before, between and after the engines).",
        report.LEGEND,
    )
    tables = (report.figures(rows, limits, job.folder), report.ratios(rows, OURS))
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
        repeats=options.repeats,
        lengths=work.traced_lengths(options.trace) if traced else (),
    )
    limits = measured_limits()
    rows: list[Row] = []
    for entrant in entrants:
        print(f"measuring {entrant}...", file=sys.stderr, flush=True)
        rows.append(measure(entrant, job))
        limits = limits.or_higher(measured_limits())
        if options.write:
            options.write.write_text(f"{text(job, rows, limits, load)}\n")
    print(text(job, rows, limits, load))


if __name__ == "__main__":
    main()

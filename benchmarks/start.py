"""The waterfall of a worker's start: process, imports, weights, warm-up, first token; its memory.

python benchmarks/start.py FOLDER_OF_A_MODEL [--repeats 5] [--picture start.svg]
    [--beside PYTHON_OF_ANOTHER_BUILD] [--standby]      # in turn, medians of both
python benchmarks/start.py --log WORKER.log [--picture start.svg]      # of a pod: kubectl logs POD

From the start of the process to a token, over the worker's own gRPC; of a pod, as far as its log
lines tell: to Ready.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

import grpc
import psutil

from machine import processor
from modelfleet_proto import worker_pb2 as pb
from modelfleet_proto import worker_pb2_grpc

MODEL = "default/model"
COLOURS = ("#4c78a8", "#72b7b2", "#f58518", "#e45756", "#b279a2", "#54a24b", "#9d755d")
PROMPT = "What is the capital of France?"

Phases = dict[str, float]  # seconds of each, in their order


class Start:
    """What one start took."""

    def __init__(
        self, phases: Phases, *, first: float, second: float, memory: float, computed: float
    ) -> None:
        self.phases = phases
        self.to_token = sum(phases.values())
        self.first, self.second = first, second  # seconds of the first two requests
        self.memory = memory  # MiB at Ready
        self.computed = computed  # seconds of processors to Ready, imports included


def started(python: str, folder: Path, *, standby: bool) -> Start:
    """A worker process to its first token; a standby from LoadModel on."""
    with tempfile.TemporaryDirectory() as scratch, running(python, folder, scratch, standby) as run:
        process, begun = run
        log = Path(scratch, "log")
        address = awaited(log, r'"address": "([^"]+)".*"listening"')
        listening = time.monotonic()
        with grpc.insecure_channel(address) as channel:
            stub = worker_pb2_grpc.WorkerStub(channel)
            stub.GetStats(pb.StatsRequest(), wait_for_ready=True)
            if standby:
                awaited(log, '"(preloaded)"')
                begun = listening = time.monotonic()
                spec = pb.ModelSpec(model=MODEL, source=folder.as_uri())
                stub.LoadModel(pb.LoadModelRequest(spec=spec))
            for stats in stub.WatchStats(pb.StatsRequest()):  # as a gateway hears of it
                if stats.state != pb.WORKER_STATE_LOADING:
                    break
            assert stats.state == pb.WORKER_STATE_READY
            ready = time.monotonic()
            memory = psutil.Process(process.pid).memory_info().rss / 2**20
            times = psutil.Process(process.pid).cpu_times()
            first, second = (token(stub) for _ in range(2))
        phases = {} if standby else {"process": listening - begun}
        loaded = dict(load_phases(log.read_text().splitlines()))
        told = sum(loaded.values())
        phases |= loaded | {"other": max(0.0, ready - listening - told), "first token": first}
        computed = times.user + times.system
        return Start(phases, first=first, second=second, memory=memory, computed=computed)


@contextlib.contextmanager
def running(
    python: str, folder: Path, scratch: str, standby: bool
) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    model = ("--preload",) if standby else ("--model", MODEL, "--source", folder.as_uri())
    command = [python, "-P", "-m", "modelfleet_worker", "--log-format", "json", *model]
    begun = time.monotonic()
    # As it is installed: compiled once, not in each start.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with Path(scratch, "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log, env=environment)
    try:
        yield process, begun
    finally:
        process.kill()
        process.wait()


def awaited(log: Path, pattern: str) -> str:
    while not (found := re.search(pattern, log.read_text())):
        time.sleep(0.005)
    return found[1]


def token(stub: worker_pb2_grpc.WorkerStub) -> float:
    """Seconds to the first token of a chat."""
    begun = time.monotonic()
    stop = pb.StopConditions(max_tokens=2, ignore_eos=True)
    message = pb.ChatMessage(role="user", content=PROMPT)
    chat = pb.Chat(messages=[message], add_generation_prompt=True)
    for response in stub.Generate(pb.GenerateRequest(model=MODEL, chat=chat, stop=stop)):
        if response.HasField("tokens"):
            return time.monotonic() - begun
    raise AssertionError("no token")


def load_phases(lines: list[str]) -> Iterator[tuple[str, float]]:
    """Of the last load in a log of JSON lines."""
    ready = last(map(parsed, lines), "ready")
    if "phases" in ready:
        yield from ready["phases"].items()
    else:  # an older build
        yield "load", ready["seconds"]


def parsed(line: str) -> dict:
    """A line of JSON, behind what `kubectl logs --timestamps --prefix` puts before it."""
    with contextlib.suppress(ValueError):
        found = json.loads(line[line.find("{") :])
        return found if isinstance(found, dict) else {}
    return {}


def last(lines: Iterable[dict], event: str) -> dict:
    found = [line for line in lines if line.get("event") == event]
    if not found:
        raise SystemExit(
            f'no line has the event "{event}": expected the whole log of a worker that became'
            " ready, in JSON lines (--log-format json, the default where no terminal is)"
        )
    return found[-1]


def of_log(path: Path) -> Phases:
    """Of a pod: what its worker logged, from its process's start to Ready."""
    lines = path.read_text().splitlines()
    told = [parsed(line) for line in lines]
    listening, loading = last(told, "listening"), last(told, "loading")
    waited = seconds_between(listening, loading)
    phases: Phases = {"process": float(listening.get("after", 0.0))}
    if waited > 0.1:  # a standby
        phases["waiting for LoadModel"] = waited
    return phases | dict(load_phases(lines))


def seconds_between(a: dict, b: dict) -> float:
    times = [datetime.fromisoformat(line["timestamp"]) for line in (a, b)]
    return (times[1] - times[0]).total_seconds()


def median(starts: list[Start]) -> Phases:
    names = list(dict.fromkeys(name for start in starts for name in start.phases))
    return {n: statistics.median(s.phases.get(n, 0.0) for s in starts) for n in names}


def table(phases: Phases) -> str:
    whole, at, rows = sum(phases.values()), 0.0, ["| phase | from, s | takes, s | share |"]
    rows.append("|---|---|---|---|")
    for name, seconds in phases.items():
        rows.append(f"| {name} | {at:.3f} | {seconds:.3f} | {seconds / whole:.0%} |")
        at += seconds
    return "\n".join([*rows, f"| **whole** | | **{whole:.3f}** | |"])


def picture(bars: dict[str, Phases]) -> str:
    """An SVG: a waterfall for each build."""
    longest = max(sum(phases.values()) for phases in bars.values())
    parts, y = [], 10
    for title, phases in bars.items():
        parts.append(f'<text x="10" y="{y + 12}" font-weight="bold">{title}</text>')
        y, at = y + 20, 0.0
        for (name, seconds), colour in zip(phases.items(), COLOURS * 2, strict=False):
            x, width = 160 + 520 * at / longest, max(1.0, 520 * seconds / longest)
            parts.append(f'<text x="150" y="{y + 12}" text-anchor="end">{name}</text>')
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="15" fill="{colour}"/>'
            )
            parts.append(f'<text x="{x + width + 5:.1f}" y="{y + 12}">{seconds:.3f} s</text>')
            y, at = y + 19, at + seconds
        y += 10
    style = 'font-family="sans-serif" font-size="12"'
    size = f'width="760" height="{y}" viewBox="0 0 760 {y}"'
    white = f'<rect width="760" height="{y}" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{white}{"".join(parts)}</svg>\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--beside", help="the python of another build")
    parser.add_argument("--standby", action="store_true", help="from LoadModel on, with --preload")
    parser.add_argument("--log", type=Path)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    bars: dict[str, Phases] = {}
    if asked.log is not None:
        bars[asked.log.name] = of_log(asked.log)
    else:
        print(processor())
        builds = {"this build": sys.executable} | ({"beside": asked.beside} if asked.beside else {})
        starts: dict[str, list[Start]] = {name: [] for name in builds}
        for python in builds.values():  # files get into caches, Python's bytecode among them
            started(python, asked.folder.resolve(), standby=asked.standby)
        for _ in range(asked.repeats):
            for name, python in builds.items():
                start = started(python, asked.folder.resolve(), standby=asked.standby)
                starts[name].append(start)
        for name, some in starts.items():
            bars[name] = median(some)
            shown = {
                "to first token, s": [s.to_token for s in some],
                "processors to Ready, s": [s.computed for s in some],
                "memory at Ready, MiB": [s.memory for s in some],
                "first request, s": [s.first for s in some],
                "second request, s": [s.second for s in some],
            }
            for what, values in shown.items():
                each = " ".join(f"{value:.3g}" for value in values)
                print(f"{name}: {what}: {statistics.median(values):.3g} ({each})")
    for name, phases in bars.items():
        print(f"\n{name}\n\n{table(phases)}")
    if asked.picture is not None:
        asked.picture.write_text(picture(bars))
        print(f"\n{asked.picture}")


if __name__ == "__main__":
    main()

"""Does a real `modelfleet up` on paced workers do what `modelfleet simulate` says it would?

Requests come as waves of a Poisson process for so many minutes; the gateway's access log is then
the trace that is simulated, with the same file, the paced workers' calibration, and the start that
the fleet itself learned. Compared: percentiles of the time to the first token, and replicas.

    .venv/bin/python benchmarks/simulator_agrees.py --minutes 10
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import yaml

from modelfleet_operator.simulate.scenario import ColdStart, Scenario, Spread
from modelfleet_operator.simulate.summary import Percentiles, Slo
from modelfleet_operator.simulate.trace import read_trace
from modelfleet_operator.simulate.variants import (
    Result,
    make_variants,
    read_calibration,
    read_files,
    simulate,
)

SOURCE = "hf://modelfleet/paced"
MANIFEST = {
    "apiVersion": "modelfleet.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "paced"},
    "spec": {
        "model": {"source": SOURCE},
        "engine": {"maxSequences": 16},
        "scaling": {
            "minReplicas": 1,
            "maxReplicas": 6,
            "targetQueueDepth": 4,
            "scaleDownDelay": "45s",
        },
    },
}
CALIBRATION = {
    "model": SOURCE,
    "step_seconds": 0.03,
    "decode_sequence_seconds": 0.004,
    "prefill_token_seconds": 0.001,
    "load_seconds": 5,
    "max_sequences": 16,
}
PROBES = 10
LEAST, MOST, WAVE = 0.6, 3.5, 150.0  # requests a second, and seconds from peak to peak


def arrivals(seconds: float, seed: int) -> list[float]:
    """A Poisson process whose rate goes up and down."""
    chance, at, result = random.Random(seed), 0.0, []
    while (at := at + chance.expovariate(MOST)) < seconds:
        rate = LEAST + (MOST - LEAST) * (1 - math.cos(2 * math.pi * at / WAVE)) / 2
        if chance.random() < rate / MOST:
            result.append(at)
    return result


async def ask(client: httpx.AsyncClient, number: int, chance: random.Random) -> None:
    words = " ".join(f"w{chance.randrange(1000)}" for _ in range(chance.randrange(40, 300)))
    body = {"model": "paced", "prompt": f"{number} {words}", "max_tokens": 90, "stream": True}
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        async for _ in answer.aiter_raw():
            pass
        assert answer.status_code == 200, answer.status_code


async def load(endpoint: str, seconds: float, state: Path, seed: int) -> list[tuple[float, int]]:
    """Sends the requests; returns the replicas at each half second (Unix time)."""
    seen: list[tuple[float, int]] = []
    status = state / "status" / "default" / "paced.yaml"

    async def watch() -> None:
        while True:
            found = (yaml.safe_load(status.read_text()) or {}).get("status") or {}
            seen.append((time.time(), int(found.get("readyReplicas", 0))))
            await asyncio.sleep(0.5)

    limits = httpx.Limits(max_connections=500, max_keepalive_connections=500)
    async with httpx.AsyncClient(base_url=endpoint, timeout=300, limits=limits) as client:
        watching = asyncio.create_task(watch())
        chance, asked = random.Random(seed), []
        for number in range(PROBES):  # one after another: what a request takes beside its steps
            await ask(client, -number, chance)
        begun = time.monotonic()
        for number, at in enumerate(arrivals(seconds, seed)):
            await asyncio.sleep(max(begun + at - time.monotonic(), 0))
            asked.append(asyncio.create_task(ask(client, number, chance)))
        await asyncio.gather(*asked)
        watching.cancel()
    return seen


def real_run(folder: Path, seconds: float, seed: int) -> tuple[list[tuple[float, int]], float]:
    """Replicas over time, and how long a start took (seconds)."""
    (folder / "paced.yaml").write_text(yaml.safe_dump(MANIFEST))
    (folder / "calibration.json").write_text(json.dumps(CALIBRATION))
    state = folder / "state"
    command = [
        *(sys.executable, "-c", "from modelfleet_operator.cli import main; main()"),
        *("up", str(folder / "paced.yaml")),
        *("--device", "paced", "--calibration", str(folder / "calibration.json")),
        *("--port", "0", "--state-dir", str(state)),
    ]
    environment = {**os.environ, "MODELFLEET_GATEWAY_ACCESS_LOG": str(folder / "access.jsonl")}
    with (folder / "up.log").open("w") as log:
        up = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            endpoint = wait_until_ready(up, state)
            seen = asyncio.run(load(endpoint, seconds, state, seed))
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait(timeout=120)
    learned = json.loads((state / "learned.json").read_text())
    return seen, float(learned[SOURCE]["cold_start_seconds"])


def wait_until_ready(up: subprocess.Popen[bytes], state: Path) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and up.poll() is None:
        for file in state.rglob("paced.yaml"):
            status = (yaml.safe_load(file.read_text()) or {}).get("status") or {}
            if status.get("readyReplicas") and status.get("url"):
                return str(status["url"]).removesuffix("/v1")
        time.sleep(0.2)
    raise SystemExit("the fleet did not get ready")


def simulated(folder: Path, start: float, lines: list[dict]) -> Result:
    calibration, _ = read_calibration(folder / "calibration.json")
    probes = sorted(lines, key=lambda line: line["arrival"])[:PROBES]
    beside = statistics.median(
        line["ttft"] - calibration.step_time(0, line["prompt_tokens"]) for line in probes
    )
    print(f"a request takes {1000 * beside:.1f} ms beside its steps")
    calibration = calibration.model_copy(update={"request_seconds": beside})
    [variant] = make_variants(
        read_files([folder / "paced.yaml"]),
        read_trace(folder / "access.jsonl"),
        model="",
        calibration=calibration,
        is_own_calibration=True,
        scenario=Scenario(cold_start=ColdStart(load=Spread(median=start)), drain_timeout=30),
        price=None,
        seed=0,
    )
    return simulate(variant, Slo(2.0, 0.2), lambda name, share: None)


def mean_replicas(points: list[tuple[float, int]], begin: float, end: float) -> float:
    """Over time; each point holds until the next."""
    total = 0.0
    for (at, count), (later, _) in zip(points, [*points[1:], (end, 0)], strict=True):
        total += count * max(min(later, end) - max(at, begin), 0.0)
    return total / (end - begin)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--minutes", type=float, default=10)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--keep", type=Path, help="folder for what the run leaves")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        seen, start = real_run(folder, 60 * options.minutes, options.seed)
        lines = [json.loads(line) for line in (folder / "access.jsonl").read_text().splitlines()]
        result = simulated(folder, start, lines)
    begin = min(line["arrival"] for line in lines)
    end = begin + 60 * options.minutes
    real = Percentiles.of(line["ttft"] for line in lines if line["ttft"] is not None)
    told = result.summary
    points = [(sample.at, sample.ready) for sample in result.outcome.history.samples]
    inside = [(at, count) for at, count in seen if at <= end]
    print(f"{len(lines)} requests in {options.minutes:g} minutes, a start takes {start:.1f} s")
    print(f"load average {os.getloadavg()[0]:.1f}")
    print("| | real | simulated | |")
    print("|---|---|---|---|")
    rows = [
        (f"TTFT {p}, s", getattr(real, p), getattr(told.ttft, p)) for p in ("p50", "p95", "p99")
    ]
    rows.append(
        (
            "ready replicas, mean",
            mean_replicas(inside, begin, end),
            mean_replicas(points, 0.0, end - begin),
        )
    )
    rows.append(
        (
            "ready replicas, most",
            max(n for _, n in inside),
            max(n for _, n in points),
        )
    )
    for name, one, other in rows:
        print(f"| {name} | {one:.3f} | {other:.3f} | {100 * (other / one - 1):+.1f} % |")


if __name__ == "__main__":
    main()

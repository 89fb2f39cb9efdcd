"""Seconds from a request to the first token of a sleeping model, with a warm pool and without.

python benchmarks/warm_pool.py [FOLDER_OF_A_MODEL] [--wakes 10] [--loaded]

One `modelfleet up` with a pool of one and two sleeping deployments of the same model, one of which
uses no pool. They are woken in turn, each once it sleeps and a worker stands by, through the
gateway; the model's files are in the page cache. Prints the median and the 95th percentile.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

SETTLE = 3.0  # seconds in which a standby imports what it will need
KEYS = {"pool": "default/with", "no pool": "default/without"}


def manifest(name: str, source: str, warm_pool: str) -> dict[str, Any]:
    return {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {
            "model": {"source": source, "dtype": "BFloat16"},
            "scaling": {"minReplicas": 0, "maxReplicas": 1, "idleTimeout": "1s"},
            "coldStart": {"warmPool": warm_pool},
        },
    }


def pool(*, loaded: bool) -> dict[str, Any]:
    return {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "WarmPool",
        "metadata": {"name": "standby"},
        "spec": {"size": 1, **({"loadedModel": "with"} if loaded else {})},
    }


def wait(what: str, holds: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds:g} s: {what}")
        time.sleep(0.1)


def status(file: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(file.read_text()) or {}
    except FileNotFoundError:
        return {}
    return dict(found.get("status") or {})


def is_asleep(state: Path, name: str) -> bool:
    conditions = status(state / "status" / "default" / f"{name}.yaml").get("conditions", [])
    return any(c["type"] == "Ready" and c["reason"] == "Asleep" for c in conditions)


def first_token(endpoint: str, model: str) -> float:
    """Seconds until the first chunk with text."""
    body = {"model": model, "prompt": "Hello", "max_tokens": 4, "stream": True, "temperature": 0}
    began = time.monotonic()
    with httpx.stream("POST", f"{endpoint}/v1/completions", json=body, timeout=120) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                return time.monotonic() - began
    raise SystemExit("the answer had no token")


def measure(state: Path, endpoint: str, wakes: int) -> dict[str, list[float]]:
    took: dict[str, list[float]] = {how: [] for how in KEYS}
    pool = state / "pools" / "default" / "standby.yaml"
    for turn in range(wakes + 1):
        for how, model in KEYS.items():
            for name in ("with", "without"):
                wait(f"{name} sleeps", lambda name=name: is_asleep(state, name))  # type: ignore[misc]
            wait("a worker stands by", lambda: status(pool).get("standby") == 1)
            time.sleep(SETTLE)
            seconds = first_token(endpoint, model)
            if turn:  # the first of each warms the page cache
                took[how].append(seconds)
    print(f"pool: {status(pool)['hits']} hits, {status(pool)['misses']} misses")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--wakes", type=int, default=10)
    parser.add_argument("--loaded", action="store_true", help="standbys hold the model in memory")
    asked = parser.parse_args()
    from prepare_smollm2 import model_folder

    source = (asked.folder or model_folder()).resolve().as_uri()
    with tempfile.TemporaryDirectory() as scratch:
        file, state = Path(scratch) / "fleet.yaml", Path(scratch) / "state"
        models = [manifest("with", source, "standby"), manifest("without", source, "None")]
        file.write_text(yaml.safe_dump_all([pool(loaded=asked.loaded), *models]))
        up = subprocess.Popen(
            [
                *(Path(sys.executable).with_name("modelfleet"), "up", file),
                *("--port", "18431", "--state-dir", state),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            endpoint = state / "run" / "endpoint"
            wait("the gateway is ready", endpoint.exists)
            took = measure(state, endpoint.read_text(), asked.wakes)
        finally:
            up.terminate()
            up.wait(60)
    for how, seconds in took.items():
        ranked = sorted(seconds)
        p95 = ranked[min(round(0.95 * (len(ranked) - 1)), len(ranked) - 1)]
        median = statistics.median(ranked)
        print(f"{how:8}: median {median:.2f} s, p95 {p95:.2f} s, {[round(s, 2) for s in seconds]}")
    ratio = statistics.median(took["pool"]) / statistics.median(took["no pool"])
    print(f"ratio of medians: {ratio:.2f}")


if __name__ == "__main__":
    main()

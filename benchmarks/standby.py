"""Seconds from LoadModel to a standby worker's first token, with and without --preload, in turn.

python benchmarks/standby.py FOLDER_OF_A_MODEL [--repeats 3]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc

from modelfleet_proto import worker_pb2 as pb
from modelfleet_proto import worker_pb2_grpc

MODEL = "default/model"
SETTLE = 3.0  # seconds that a standby without --preload waits


def first_token(folder: Path, *flags: str) -> float:
    """Seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        address, log = Path(scratch, "address"), Path(scratch, "log")
        command = [sys.executable, "-m", "modelfleet_worker", "--address-file", str(address)]
        with log.open("w") as stderr:
            process = subprocess.Popen([*command, "--log-format=json", *flags], stderr=stderr)
        try:
            while not address.exists():
                time.sleep(0.02)
            time.sleep(SETTLE)
            while flags and '"preloaded"' not in log.read_text():
                time.sleep(0.05)
            return timed(address.read_text(), folder)
        finally:
            process.kill()
            process.wait()


def timed(address: str, folder: Path) -> float:
    with grpc.insecure_channel(address) as channel:
        stub = worker_pb2_grpc.WorkerStub(channel)
        stub.GetStats(pb.StatsRequest(), wait_for_ready=True)
        began = time.monotonic()
        spec = pb.ModelSpec(model=MODEL, source=folder.as_uri())
        stub.LoadModel(pb.LoadModelRequest(spec=spec))
        while stub.GetStats(pb.StatsRequest()).state == pb.WORKER_STATE_LOADING:
            time.sleep(0.01)
        stop = pb.StopConditions(max_tokens=1, ignore_eos=True)
        for response in stub.Generate(pb.GenerateRequest(model=MODEL, prompt="Hello", stop=stop)):
            if response.HasField("tokens"):
                break
        return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    seconds: dict[str, list[float]] = {"cold": [], "preloaded": []}
    for _ in range(asked.repeats):
        for name, flags in (("cold", ()), ("preloaded", ("--preload",))):
            taken = first_token(asked.folder.resolve(), *flags)
            seconds[name].append(taken)
            print(f"{name}: {taken:.2f} s", flush=True)
    cold, preloaded = (statistics.median(seconds[name]) for name in ("cold", "preloaded"))
    print(f"medians: {cold:.2f} s, {preloaded:.2f} s with --preload: {cold / preloaded:.2f}x")


if __name__ == "__main__":
    main()

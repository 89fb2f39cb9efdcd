"""The time to the first token by prefix and by load: `python benchmarks/prefix_routing.py`.

4 workers are processes of the paced device: what a prompt has in a worker's prefix cache takes no
time. Each scenario runs with both policies, one after the other, on workers that have just started,
with the same random numbers. Users talk in turns: they ask, read, think, and ask again with all
that was said.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gateway_cpu import Operator, gateway, serving, wait_until_ready
from machine import description
from modelfleet_proto import fleet_pb2, fleet_pb2_grpc
from worker_process import ready_worker

MODEL = "bench/model"
WORKERS = 4
POLICIES = ("LeastOutstanding", "PrefixAware")
HERE = Path(__file__).resolve().parents[1]
WORDS = ("the", "fleet", "wakes", "when", "asked", "and", "sleeps")  # of the paced tokenizer
PACE = {
    "step_seconds": 0.008,
    "decode_sequence_seconds": 0.0002,
    "prefill_token_seconds": 0.00015,
    "load_seconds": 0.0,
    "max_sequences": 64,
    "kv_tokens": 65536,
    "context_length": 8192,
}
CONTENT = re.compile(rb'"content":"[^"]')
USAGE = re.compile(rb'"prompt_tokens":(\d+).*?"cached_tokens":(\d+)')


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """How users behave; sizes in words, which are tokens here."""

    name: str
    users: int
    turns: int = 6
    system: int = 300  # the same for all
    opening: int = 700  # of a conversation: a document and the first question
    question: int = 100  # of each further turn
    answer: int = 40
    think: float = 3.0  # seconds, on average


SCENARIOS = (
    Scenario(name="turns, low load", users=4),
    Scenario(name="turns, medium load", users=28),
    Scenario(name="turns, high load", users=56),
    Scenario(name="single questions, nothing in common", users=28, turns=1, system=0, opening=1000),
    Scenario(name="single short questions, one system prompt", users=28, turns=1, opening=50),
)


@dataclass(slots=True)
class Seen:
    """What clients saw."""

    ttft: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    prompt: int = 0
    cached: int = 0


def words(source: random.Random, count: int) -> str:
    return " ".join(f"{source.choice(WORDS)}{source.randrange(1, 100)}" for _ in range(count))


@contextlib.contextmanager
def paced_workers(folder: Path) -> Iterator[list[str]]:
    """Their addresses."""
    calibration = folder / "paced.json"
    calibration.write_text(json.dumps(PACE))
    files = [folder / f"address-{number}" for number in range(WORKERS)]
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "modelfleet_worker", "--device", "paced"),
                *("--calibration", calibration, "--model", MODEL, "--source", "hf://a/b"),
                *("--listen", "127.0.0.1:0", "--worker-id", f"w-{number}"),
                *("--address-file", file, "--die-with-parent"),
            ],
            stderr=subprocess.DEVNULL,
        )
        for number, file in enumerate(files)
    ]
    try:
        while not all(file.exists() for file in files):
            assert all(process.poll() is None for process in processes), "a worker did not start"
            time.sleep(0.02)
        yield [file.read_text().strip() for file in files]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextlib.asynccontextmanager
async def fleet(policy: str) -> AsyncIterator[str]:
    """The address of a gateway before 4 workers, as an operator tells it by default."""
    with tempfile.TemporaryDirectory() as scratch, paced_workers(Path(scratch)) as addresses:
        for address in addresses:
            async with ready_worker(address):
                pass
        operator = Operator("")
        operator.serve(
            fleet_pb2.ModelView(
                model=MODEL,
                max_queue=1000,
                hold_timeout=60,
                routing_policy=policy,
                pack_in_flight=1,
                workers=[
                    fleet_pb2.WorkerRoute(worker_id=f"w-{n}", address=address, routable=True)
                    for n, address in enumerate(addresses)
                ],
            )
        )
        async with serving(fleet_pb2_grpc.add_FleetServicer_to_server, operator) as link:
            with gateway(HERE, link) as (_, address):
                await wait_until_ready(address)
                await asyncio.sleep(1.5)  # all workers' Stats are there
                yield address


async def ask(address: str, messages: list[dict[str, str]], answer: int, seen: Seen) -> str:
    """One streamed chat on a connection of its own; returns the answer's text."""
    body = json.dumps(
        {
            "model": MODEL,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": answer,
            "ignore_eos": True,
            "temperature": 0,
        }
    ).encode()
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-length: {len(body)}"
    begun = time.perf_counter()
    writer.write(head.encode() + b"\r\nconnection: close\r\n\r\n" + body)
    received, first = bytearray(), 0.0
    while data := await reader.read(65536):
        received += data
        if not first and CONTENT.search(received):
            first = time.perf_counter()
    writer.close()
    assert b"data: [DONE]" in received, bytes(received[:500])
    usage = USAGE.search(received)
    assert usage is not None, bytes(received[-500:])
    seen.ttft.append(first - begun)
    seen.whole.append(time.perf_counter() - begun)
    seen.prompt += int(usage[1])
    seen.cached += int(usage[2])
    return words(random.Random(len(received)), answer)


async def user(
    number: int, scenario: Scenario, address: str, ends: float, counts_from: float, seen: Seen
) -> None:
    source = random.Random(number)
    system = {"role": "system", "content": words(random.Random(-1), scenario.system)}
    await asyncio.sleep(source.random() * scenario.think)
    while True:
        messages = [system] if scenario.system else []
        for turn in range(scenario.turns):
            asked = scenario.opening if turn == 0 else scenario.question
            messages.append({"role": "user", "content": words(source, asked)})
            now = time.perf_counter()
            if now >= ends:
                return
            kept = seen if now >= counts_from else Seen()
            text = await ask(address, messages, scenario.answer, kept)
            messages.append({"role": "assistant", "content": text})
            await asyncio.sleep(source.expovariate(1 / scenario.think))


async def measure(scenario: Scenario, policy: str, seconds: float) -> Seen:
    seen = Seen()
    async with fleet(policy) as address:
        now = time.perf_counter()
        counts_from, ends = now + seconds / 3, now + seconds
        users = (
            user(number, scenario, address, ends, counts_from, seen)
            for number in range(scenario.users)
        )
        await asyncio.gather(*users)
    return seen


def milliseconds(values: list[float]) -> str:
    return (
        f"{statistics.mean(values) * 1e3:.0f} ({statistics.quantiles(values, n=20)[-1] * 1e3:.0f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=15, help="of each; the first third warms")
    parser.add_argument("--only", default="", help="scenarios with this in their name")
    args = parser.parse_args()
    print(description(), flush=True)
    print(
        "| scenario | requests | TTFT by load, mean (p95), ms | by prefix | better by"
        " | of the prompts cached | whole answer, by prefix of by load |"
        "\n|---|---|---|---|---|---|---|"
    )
    for index, scenario in enumerate(SCENARIOS):
        if args.only not in scenario.name:
            continue
        order = POLICIES if index % 2 else POLICIES[::-1]
        found = {policy: asyncio.run(measure(scenario, policy, args.seconds)) for policy in order}
        load, prefix = (found[policy] for policy in POLICIES)
        better = statistics.mean(load.ttft) / statistics.mean(prefix.ttft)
        whole = statistics.mean(prefix.whole) / statistics.mean(load.whole)
        print(
            f"| {scenario.name} | {len(load.ttft)} + {len(prefix.ttft)} | {milliseconds(load.ttft)}"
            f" | {milliseconds(prefix.ttft)} | **{better:.2f}x** | {load.cached / load.prompt:.0%},"
            f" {prefix.cached / prefix.prompt:.0%} | {whole:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

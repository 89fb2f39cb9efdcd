"""From a notice to the last of 16 streams handed over: `python benchmarks/hand_over.py MODEL`.

Two workers of a real model, a gateway and the operator's decisions, all on this machine. Each turn
16 streams run, one worker is told that its node shuts down in 15 s, and the time is taken until
it has none of them left; beside it the longest pause that a client saw. MODEL: a folder.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import structlog

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from local_fleet import manifest
from machine import processor
from modelfleet_operator.decisions.interruption import Notice
from modelfleet_operator.decisions.signs import NoticeKind
from noticed_fleet import NoticedFleet, noticed_fleet

SHORT = Notice(kind=NoticeKind.NODE_SHUTDOWN, source="condition Ready", seconds=15.0)
STREAMS = 16
SIGNALS = 1.0  # seconds within which the gateway says what runs where


async def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--words", type=int, default=0, help="more of each prompt, about a token")
    options = parser.parse_args()
    model = manifest(
        source=f"file://{options.model.absolute()}",
        model={"dtype": "BFloat16"},
        scaling={"minReplicas": 2, "maxReplicas": 2},
        engine={"maxSequences": 32},
    )
    moved, pauses = [], []
    with tempfile.TemporaryDirectory() as folder:
        async with noticed_fleet(Path(folder), model) as fleet:
            for _ in range(options.turns):
                took, longest = await turn(fleet, options.tokens, options.words)
                moved.append(took)
                pauses += longest
                print(f"{took:.2f} s, longest pause {max(longest):.2f} s", flush=True)
    print(processor())
    print(f"from the notice to the last stream handed over: {quantiles(moved)}")
    print(f"longest pause in each of {len(pauses)} streams: {quantiles(pauses)}")


async def turn(fleet: NoticedFleet, tokens: int, words: int) -> tuple[float, list[float]]:
    """Seconds until the told worker had no stream, and each stream's longest pause."""
    await until(lambda: len(fleet.ready()) == 2)
    begun = [asyncio.Event() for _ in range(STREAMS)]
    more = [" ".join(f"word{n * (i + 2) % 97}" for i in range(words)) for n in range(STREAMS)]
    prompts = [f"Write a long story about number {n}. {more[n]}" for n in range(STREAMS)]
    asked = [
        asyncio.create_task(stream(fleet, prompt, tokens, event))
        for prompt, event in zip(prompts, begun, strict=True)
    ]
    await asyncio.gather(*(event.wait() for event in begun))
    await asyncio.sleep(SIGNALS)
    going = max(fleet.ready(), key=fleet.taken)
    count, before = fleet.taken(going), await resumed(fleet)
    told = time.monotonic()
    fleet.tell(going, SHORT)
    # Some may end there before they move.
    while await resumed(fleet) < before + count and fleet.taken(going):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    took = time.monotonic() - told
    pauses = await asyncio.gather(*asked)
    await until(lambda: going.uid not in {w.uid for w in fleet.workers()})
    return took, list(pauses)


async def stream(fleet: NoticedFleet, prompt: str, tokens: int, begun: asyncio.Event) -> float:
    last, longest = 0.0, 0.0
    chunks: Any = await fleet.gateway.client.completions.create(
        model="smollm2",
        prompt=prompt,
        max_tokens=tokens,
        temperature=0,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    async for _ in chunks:
        now = time.monotonic()
        longest, last = max(longest, now - (last or now)), now
        begun.set()
    return longest


async def resumed(fleet: NoticedFleet) -> float:
    """Streams that went on on another worker, since the gateway began."""
    return await fleet.counted("modelfleet_gateway_resumed_total")


async def until(condition) -> None:
    while not condition():  # noqa: ASYNC110  as often as it may matter
        await asyncio.sleep(0.005)


def quantiles(seconds: list[float]) -> str:
    p95 = statistics.quantiles(seconds, n=20)[-1]
    return f"median {statistics.median(seconds):.2f} s, p95 {p95:.2f} s, most {max(seconds):.2f} s"


if __name__ == "__main__":
    asyncio.run(main())

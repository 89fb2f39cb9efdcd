"""Checkouts measured in turn, so that all meet the same moods of the machine."""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Awaitable, Callable
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def compare(
    measure: Callable[[Path, int], Awaitable[float]], described: str, work: str, count: int
) -> None:
    """Reads the command line and prints CPU seconds for 1,000 of `work` ("chats") by checkout.

    `measure` takes a checkout and how many of them to do, `count` unless the command line says so.
    """
    parser = argparse.ArgumentParser(description=described)
    parser.add_argument("--checkout", type=Path, action="append", help="with its own .venv")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(f"--{work}", dest="count", type=int, default=count, help="in each round")
    args = parser.parse_args()
    checkouts: list[Path] = args.checkout or [HERE]

    async def measured(checkout: Path) -> float:
        return await measure(checkout, args.count)

    seconds: dict[Path, list[float]] = {checkout: [] for checkout in checkouts}
    for number in range(args.rounds):
        for checkout in checkouts:
            seconds[checkout].append(asyncio.run(measured(checkout)))
            print(f"round {number + 1}: {checkout}: {seconds[checkout][-1]:.2f} s", flush=True)
    print(f"\n| checkout | CPU seconds for 1,000 {work}, median | of the first's |\n|---|---|---|")
    first = statistics.median(seconds[checkouts[0]])
    for checkout, values in seconds.items():
        median = statistics.median(values)
        print(f"| {checkout} | {median:.2f} | {median / first:.3f} |")

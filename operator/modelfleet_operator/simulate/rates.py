"""Requests drawn from rates: ServeGen's fourteen days, in windows of ten minutes.

The rates and fitted arrival processes are those of Xiang et al., "ServeGen: Workload
Characterization and Generation of Large Language Model Serving in Production", arXiv 2505.09999;
the lengths are percentiles of the same clients.
"""

from __future__ import annotations

import bisect
import csv
import math
import random
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..errors import TraceError
from .trace import Cut, Trace, open_text

WINDOW: Final = 600.0  # seconds
COLUMNS: Final = ("client", "start_s", "rate_rps", "cv", "family", "shape", "scale")
_SHARES: Final = (0.0, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
_PERCENTILES: Final = ("p5", "p25", "p50", "p75", "p90", "p95", "p99")


@dataclass(slots=True)
class Client:
    """One client's windows and lengths."""

    windows: list[tuple[float, float, str, float]] = field(default_factory=list)
    """Start, requests a second, family and shape of the gaps; windows without traffic are left out.
    """
    starts: list[float] = field(default_factory=list)  # of `lengths`
    lengths: list[tuple[tuple[float, ...], tuple[float, ...]]] = field(default_factory=list)
    """Prompt and answer tokens at _SHARES."""


def is_rates(names: list[str]) -> bool:
    """Whether a file with these columns holds rates, not requests."""
    return set(COLUMNS) <= set(names)


def read_client(path: Path, client: str) -> Client:
    """One client of the rates in `path` and the lengths beside it. TraceError names the line."""
    found, clients = Client(), set[str]()
    for number, row in _rows(path):
        clients.add(row["client"])
        if row["client"] == client:
            try:
                window = float(row["start_s"]), float(row["rate_rps"]), row["family"]
                found.windows.append((*window, float(row["shape"])))
            except ValueError as error:
                raise TraceError(f"{path}, line {number}: {error}") from error
    if not found.windows:
        some = ", ".join(sorted(clients, key=lambda name: (len(name), name))[:20])
        raise TraceError(
            f"{path}: name one of its clients with --client ({some}, ...)"
            + (f", found {client!r}" if client else "")
        )
    beside = path.with_name(path.name.replace("-rates", "-lengths"))
    for number, row in _rows(beside):
        if row["client"] == client:
            try:
                both = tuple(_spread([float(row[f"{kind}_{p}"]) for p in _PERCENTILES])
                             for kind in ("in", "out"))  # fmt: skip
                found.starts.append(float(row["start_s"]))
            except (KeyError, ValueError) as error:
                raise TraceError(f"{beside}, line {number}: {error}") from error
            found.lengths.append((both[0], both[1]))
    if not found.lengths:
        raise TraceError(f"{beside}: client {client} has no lengths here: choose another one")
    return found


def draw(client: Client, part: Cut, source: str) -> Trace:
    """Requests of a part, with `part.factor` times the rate. The same seed draws the same."""
    chance = random.Random(part.seed)
    arrivals, prompts, answers = array("d"), array("q"), array("q")
    end = part.start + part.length
    for start, rate, family, shape in client.windows:
        if start + WINDOW <= part.start or start >= end:
            continue
        expected = rate * part.factor * WINDOW
        count = int(expected) + (chance.random() < expected % 1)
        place = max(bisect.bisect_right(client.starts, start) - 1, 0)
        prompt, answer = client.lengths[place]
        for at in _arrivals(count, family, shape, chance):
            lengths = _length(prompt, chance), _length(answer, chance)
            if part.start <= start + at < end:
                arrivals.append(start + at - part.start)
                prompts.append(lengths[0])
                answers.append(lengths[1])
    if not arrivals:
        raise TraceError(f"{source}: there are no requests from {part.start:g} s on")
    return Trace(arrivals, prompts, answers, (), source)


def liveliest(client: Client, length: float, first: float, last: float) -> float:
    """Where the part of this length with the most requests begins, within [first, last)."""
    rates = {start: rate for start, rate, _, _ in client.windows}
    count = math.ceil(length / WINDOW)
    starts = [first + WINDOW * n for n in range(int((last - first) // WINDOW) - count + 1)]
    return max(starts, key=lambda at: sum(rates.get(at + WINDOW * n, 0.0) for n in range(count)))


def _arrivals(count: int, family: str, shape: float, chance: random.Random) -> list[float]:
    """So many in a window: gaps of the family, times a constant so that they fill it."""
    if not count:
        return []
    if family == "Gamma":
        gaps = [chance.gammavariate(shape, 1.0) for _ in range(count + 1)]
    else:
        gaps = [chance.weibullvariate(1.0, shape) for _ in range(count + 1)]
    total = sum(gaps) or 1.0
    result, at = [], 0.0
    for gap in gaps[:-1]:
        at += gap
        result.append(min(at / total, 1.0) * WINDOW)
    return result


def _spread(known: list[float]) -> tuple[float, ...]:
    """Half the lowest percentile is the least, a quarter more than the highest the most."""
    return (known[0] / 2, *known, known[-1] * 1.25)


def _length(points: tuple[float, ...], chance: random.Random) -> int:
    share = chance.random()
    place = bisect.bisect_right(_SHARES, share, 1, len(_SHARES) - 1) - 1
    low, high = _SHARES[place], _SHARES[place + 1]
    tokens = points[place] + (points[place + 1] - points[place]) * (share - low) / (high - low)
    return max(round(tokens), 1)


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    with open_text(path) as file:
        reader = csv.DictReader(file)
        return [(reader.line_num, row) for row in reader]

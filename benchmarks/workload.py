"""The work that every engine gets: random but fixed token ids, greedy, end of sequence ignored."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass

STREAMS = 16
PROMPT_TOKENS = 128
NEW_TOKENS = 128


def prompt(seed: int) -> list[int]:
    """Distinct for each seed, so that no prefix cache helps; ids far from the special ones."""
    draw = random.Random(seed)
    return [draw.randrange(300, 48000) for _ in range(PROMPT_TOKENS)]


def prompts(seed: int) -> list[list[int]]:
    """One prompt for each of the concurrent streams."""
    return [prompt(1000 * seed + i) for i in range(STREAMS)]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a script of engines/ gets, as JSON in its only argument; its last line is a Result."""

    folder: str  # Hugging Face folder
    dtype: str  # a torch name
    repeats: int
    started: float  # when the process was started, on the machine's monotonic clock


@dataclass(frozen=True, kw_only=True)
class Result:
    """Medians over the repeats, for one engine. Rates are output tokens over wall time."""

    engine: str
    version: str
    start_seconds: float  # process start to first token, weights in the page cache
    ttft_seconds: float  # one stream
    decode_rate: float  # tokens per second of one stream after its first token
    batched_rate: float  # 16 streams at once, prompts included
    sequential_rate: float  # the same 16 requests, one after another


def median(repeats: int, measure: Callable[[int], float]) -> float:
    """The median of `measure(repeat)`; each repeat gets its own number to draw prompts from."""
    return statistics.median(measure(repeat) for repeat in range(repeats))

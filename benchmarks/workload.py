"""The work that every engine gets: random but fixed token ids, greedy, end of sequence ignored."""

from __future__ import annotations

import csv
import gzip
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import machine

CONTEXT = 2048  # tokens of a prompt and its answer together, in every workload
STREAMS = 16  # at once
PROMPT_TOKENS = 128
NEW_TOKENS = 128
SHARED_TOKENS, OWN_TOKENS, SHARED_NEW_TOKENS = 512, 32, 64
TRACED_REQUESTS = 64
TRACE_SCALE = 4  # lengths are divided by it: 99 % of the hour's requests then fit the context

WORKLOADS = ("single", "uniform", "shared", "traces")

Length = tuple[int, int]  # tokens of a prompt, and of its answer


@dataclass(frozen=True)
class Request:
    ids: list[int]
    new_tokens: int


def prompt(seed: object, tokens: int = PROMPT_TOKENS) -> list[int]:
    """Distinct for each seed, so that no prefix cache helps; ids far from the special ones."""
    draw = random.Random(str(seed))
    return [draw.randrange(300, 48000) for _ in range(tokens)]


FIRST = Request(prompt("first"), 1)  # its answer ends the start
WARMING = Request(prompt("warming"), 16)  # runs once before anything is measured


@dataclass(frozen=True)
class Timing:
    """When a request began, and when its first and last token came; seconds, monotonic."""

    begun: float
    first: float
    last: float


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a script of engines/ gets, as JSON in its only argument; its last line is a Result."""

    folder: str  # Hugging Face folder
    workloads: Sequence[str]  # of WORKLOADS; none: only the start is measured
    repeat: int  # which one this is: prompts are other ones in each
    lengths: Sequence[Length]  # of the requests in `traces`
    weights: str = ""  # the format, as the engine calls it
    setup: str = ""  # one of the engine's, if it has several
    started: float = 0.0  # when the process was started, on the machine's monotonic clock


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of one workload. Rates are tokens per second."""

    ttft: float  # seconds from sending a request to its first token, median of the requests
    decode_rate: float  # of one stream after its first token, median of the requests
    batch_rate: float  # output tokens of all over wall time, prompts included


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one engine did."""

    version: str
    start_seconds: float  # process start to first token, weights in the page cache
    weight_bytes: int  # read for each decoding step
    limits: machine.Limits  # measured beside the work, while the engine had none
    figures: dict[str, Figures]


def requests(job: Job, workload: str) -> list[Request]:
    """At most STREAMS of them run at once."""

    def own(i: int, tokens: int) -> list[int]:
        return prompt((workload, job.repeat, i), tokens)

    match workload:
        case "single":
            return [Request(own(0, PROMPT_TOKENS), NEW_TOKENS)]
        case "uniform":
            return [Request(own(i, PROMPT_TOKENS), NEW_TOKENS) for i in range(STREAMS)]
        case "shared":
            shared = own(STREAMS, SHARED_TOKENS)
            return [Request(shared + own(i, OWN_TOKENS), SHARED_NEW_TOKENS) for i in range(STREAMS)]
        case "traces":
            return [Request(own(i, known), new) for i, (known, new) in enumerate(job.lengths)]
        case _:
            raise ValueError(f"expected a workload of {', '.join(WORKLOADS)}, found {workload!r}")


def traced_lengths(trace: Path) -> list[Length]:
    """The lengths of requests drawn from an hour of production, scaled; the same in every call."""
    with gzip.open(trace, "rt") as rows:
        hour = [
            (int(row["input_tokens"]) // TRACE_SCALE, int(row["output_tokens"]) // TRACE_SCALE)
            for row in csv.DictReader(rows)
        ]
    # Two new tokens at least: with one there is no rate to speak of.
    fitting = [(known, new) for known, new in hour if known + new <= CONTEXT and known and new > 1]
    return random.Random(0).sample(fitting, TRACED_REQUESTS)


def figures(requests: list[Request], timings: list[Timing]) -> Figures:
    """Of one workload, by when the tokens of its requests came."""
    wall = max(t.last for t in timings) - min(t.begun for t in timings)
    rates = [
        (r.new_tokens - 1) / (t.last - t.first) for r, t in zip(requests, timings, strict=True)
    ]
    return Figures(
        ttft=statistics.median(t.first - t.begun for t in timings),
        decode_rate=statistics.median(rates),
        batch_rate=sum(r.new_tokens for r in requests) / wall,
    )

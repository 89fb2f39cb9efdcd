"""What was measured, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import projections
import workload as work
from machine import Limits

EMPTY = "-"


@dataclass(frozen=True)
class Entrant:
    """An engine with its weights in one format, in one set-up."""

    engine: str  # its script in engines/
    name: str
    weights: str  # the format, as the engine calls it
    setup: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.weights}{f' ({self.setup})' if self.setup else ''}"

    @property
    def computes_in(self) -> str:
        """Of machine.Limits.operations; narrow weights are multiplied as int8."""
        return self.weights.lower() if self.weights.lower() in ("bf16", "fp32") else "int8"


@dataclass(frozen=True)
class Row:
    entrant: Entrant
    load: float  # average of a minute, before
    result: work.Result | str  # or why there is none


Rate = Callable[[work.Result], float | None]


def rate_of(workload: str) -> Rate:
    """Tokens per second: of a stream where there is one, else of all together."""

    def rate(result: work.Result) -> float | None:
        found = result.figures.get(workload)
        if found is None:
            return None
        return found.decode_rate if workload == "single" else found.batch_rate

    return rate


def ttft_of(workload: str) -> Rate:
    return lambda result: f.ttft if (f := result.figures.get(workload)) else None


def sooner(result: work.Result) -> float:
    """So that more is better, as with the rates."""
    return 1 / result.start_seconds


LEGEND = f"""\
Random token ids, greedy, end of sequence ignored; each engine serves over its own streaming API
(transformers has none: one call for each {work.STREAMS} prompts, sorted by length). 1 stream and
{work.STREAMS} streams: {work.PROMPT_TOKENS} tokens and {work.NEW_TOKENS} new ones; shared prompt:
{work.SHARED_TOKENS} tokens in common and {work.OWN_TOKENS} of its own, {work.SHARED_NEW_TOKENS} new
ones; traces: {work.TRACED_REQUESTS} requests drawn from an hour of Azure's (2023), lengths divided
by {work.TRACE_SCALE}, {work.STREAMS} at once. Nothing else is cached before. 1 stream: tokens after
the first one; elsewhere output tokens over wall time, prompts included. Of bandwidth: weights read
for these tokens; of compute: matrix products of the tokens, attention left out, at the machine's
rate for bf16, or int8 where weights are narrower. TTFT: medians, from sending a request. Start:
from the start of the process, files in the page cache. Ratios are to the peer's best set-up."""

COMPARED: dict[str, Rate] = {
    "1 stream": rate_of("single"),
    "16 streams": rate_of("uniform"),
    "16 streams, shared prompt": rate_of("shared"),
    "traces": rate_of("traces"),
    "start": sooner,
}


def figures(rows: Sequence[Row], limits: Limits, folder: str) -> str:
    """One line for each entrant."""
    header = (
        "engine, weights",
        "start to first token, s",
        "TTFT, s",
        "1 stream, tok/s",
        "of bandwidth",
        "16 streams, tok/s",
        "of compute",
        "TTFT, s",
        "16 streams, shared prompt, tok/s",
        "TTFT, s",
        "traces, tok/s",
        "TTFT, s",
        "load before",
    )
    return _table(header, (_line(row, limits, folder, len(header)) for row in rows))


def _line(row: Row, limits: Limits, folder: str, columns: int) -> list[str]:
    if isinstance(row.result, str):
        return [str(row.entrant), row.result, *[EMPTY] * (columns - 2)]
    result = row.result
    single, uniform, shared, traced = (rate_of(w)(result) for w in work.WORKLOADS)
    ttfts = [_number(ttft_of(w)(result), ".3f") for w in work.WORKLOADS]
    read = single and single * result.weight_bytes / limits.read_bytes
    # Computing at this rate would give so many tokens a second, if nothing else took time.
    peak = limits.operations[row.entrant.computes_in]
    token = projections.operations(folder, work.PROMPT_TOKENS, work.NEW_TOKENS) / work.NEW_TOKENS
    computed = uniform and uniform * token / peak
    return [
        f"{row.entrant}, {result.version}",
        _number(result.start_seconds, ".2f"),
        *(ttfts[0], _number(single, ".1f"), _number(read, ".0%")),
        *(_number(uniform, ".0f"), _number(computed, ".0%"), ttfts[1]),
        *(_number(shared, ".0f"), ttfts[2]),
        *(_number(traced, ".0f"), ttfts[3]),
        f"{row.load:.1f}",
    ]


def ratios(rows: Sequence[Row], ours: str) -> str:
    """Ours over each peer, in the set-up that was best for the peer in that column."""
    results = [(row.entrant, row.result) for row in rows if isinstance(row.result, work.Result)]
    our_results = {e.weights: result for e, result in results if e.engine == ours}
    peers: dict[tuple[str, str], list[work.Result]] = {}
    for entrant, result in results:
        if entrant.engine != ours:
            peers.setdefault((entrant.name, entrant.weights), []).append(result)
    if not peers or not our_results:
        return ""

    def cell(rate: Rate, peer: list[work.Result]) -> str:
        best = max((r for result in peer if (r := rate(result))), default=None)
        if best is None:
            return EMPTY
        mine = (rate(result) for result in our_results.values())
        return " / ".join(_number(own and own / best, ".2f") for own in mine)

    lines = (
        [" ".join(name), *(cell(rate, peer) for rate in COMPARED.values())]
        for name, peer in peers.items()
    )
    formats = " / ".join(our_results)
    return _table((f"ours ({formats}) over", *COMPARED), lines)


def _number(value: float | None, form: str) -> str:
    return EMPTY if value is None else format(value, form)


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)

"""What was measured, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import projections
import workload as work

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
    load: float  # average of a minute, before its first start
    results: Sequence[work.Result] | str  # one of each round; or why there are none


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


def of_bandwidth(result: work.Result) -> float | None:
    """What was read of the weights, as a share of what the machine read beside it."""
    single = rate_of("single")(result)
    return single and single * result.weight_bytes / result.limits.read_bytes


def of_compute(entrant: Entrant, folder: str) -> Rate:
    """Operations of the tokens, as a share of what the machine did beside them."""
    token = projections.operations(folder, work.PROMPT_TOKENS, work.NEW_TOKENS) / work.NEW_TOKENS

    def share(result: work.Result) -> float | None:
        uniform = rate_of("uniform")(result)
        return uniform and uniform * token / result.limits.operations[entrant.computes_in]

    return share


def middle(results: Sequence[work.Result], rate: Rate) -> float | None:
    """The median of the rounds."""
    found = [r for result in results if (r := rate(result)) is not None]
    return statistics.median(found) if found else None


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
for these tokens; of compute: matrix products of the tokens, attention left out; both as shares of
what the machine did some seconds after the one stream, while the engine waited: reading memory,
multiplying matrices in bf16, or int8 where weights are narrower. TTFT: medians, from sending a
request. Start: from the start of the process, files in the page cache. Ratios are of medians, to
the peer's best set-up."""

COMPARED: dict[str, Rate] = {
    "1 stream": rate_of("single"),
    "16 streams": rate_of("uniform"),
    "16 streams, shared prompt": rate_of("shared"),
    "traces": rate_of("traces"),
    "start": sooner,
}


def figures(rows: Sequence[Row], folder: str) -> str:
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
    return _table(header, (_line(row, folder, len(header)) for row in rows))


def _line(row: Row, folder: str, columns: int) -> list[str]:
    if isinstance(row.results, str):
        return [str(row.entrant), row.results, *[EMPTY] * (columns - 2)]
    results = row.results
    single, uniform, shared, traced = (middle(results, rate_of(w)) for w in work.WORKLOADS)
    ttfts = [_number(middle(results, ttft_of(w)), ".3f") for w in work.WORKLOADS]
    read = middle(results, of_bandwidth)
    computed = middle(results, of_compute(row.entrant, folder))
    return [
        f"{row.entrant}, {results[0].version}",
        _number(middle(results, lambda result: result.start_seconds), ".2f"),
        *(ttfts[0], _number(single, ".1f"), _number(read, ".0%")),
        *(_number(uniform, ".0f"), _number(computed, ".0%"), ttfts[1]),
        *(_number(shared, ".0f"), ttfts[2]),
        *(_number(traced, ".0f"), ttfts[3]),
        f"{row.load:.1f}",
    ]


def ratios(rows: Sequence[Row], ours: str) -> str:
    """Ours over each peer, in the set-up that was best for the peer in that column."""
    measured = [(row.entrant, row.results) for row in rows if not isinstance(row.results, str)]
    our_results = {e.weights: results for e, results in measured if e.engine == ours}
    peers: dict[tuple[str, str], list[Sequence[work.Result]]] = {}
    for entrant, results in measured:
        if entrant.engine != ours:
            peers.setdefault((entrant.name, entrant.weights), []).append(results)
    if not peers or not our_results:
        return ""

    def cell(rate: Rate, setups: list[Sequence[work.Result]]) -> str:
        best = max((r for results in setups if (r := middle(results, rate))), default=None)
        if best is None:
            return EMPTY
        mine = (middle(results, rate) for results in our_results.values())
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

"""A comparison in words and numbers: a table for a terminal, and JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from .outcome import Sample
from .summary import Slo, Summary, area_bound, as_json
from .variants import Result

BLOCKS: Final = " ▁▂▃▄▅▆▇█"
SIDE_BY_SIDE: Final = 4  # variants that are columns; more are rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all results have in common, in words."""

    trace: str
    calibration: str
    cold_start: str
    slo: Slo
    seed: int
    claim: str = ""  # what a claim and a new standby take; empty: there are no pools
    spot: str = ""  # the market; empty: nothing is on spot


def as_document(setting: Setting, results: Sequence[Result]) -> dict[str, Any]:
    """JSON types."""
    return {
        "trace": setting.trace,
        "calibration": setting.calibration,
        "coldStart": setting.cold_start,
        **({"claim": setting.claim} if setting.claim else {}),
        **({"spotMarket": setting.spot} if setting.spot else {}),
        "slo": {"ttftSeconds": setting.slo.ttft, "tpotSeconds": setting.slo.tpot},
        "seed": setting.seed,
        "results": [
            {
                "name": result.variant.name,
                **as_json(result.summary),
                "notes": result.outcome.history.notes,
                "areaBoundHours": round(_bound(result), 6),
                "series": [
                    {
                        "at": round(s.at, 3),
                        "waiting": s.waiting,
                        "running": s.running,
                        "wanted": s.wanted,
                        "existing": s.existing,
                        "ready": s.ready,
                    }
                    for s in result.outcome.history.samples
                ],
            }
            for result in results
        ],
    }


def print_report(console: Console, setting: Setting, results: Sequence[Result]) -> None:
    """For a person."""
    first = results[0]
    trace = first.variant.trace
    lines = [
        f"trace          {setting.trace}",
        f"               {len(trace):,} requests in {_duration(trace.seconds)}, "
        f"{sum(trace.prompts) / len(trace):,.0f} prompt and "
        f"{sum(trace.answers) / len(trace):,.0f} answer tokens on average",
        f"service times  {setting.calibration}",
        f"cold start     {setting.cold_start}",
        *([f"claim          {setting.claim}"] if setting.claim else []),
        *([f"spot market    {setting.spot}"] if setting.spot else []),
        f"kept           TTFT at most {setting.slo.ttft:g} s, TPOT at most "
        f"{setting.slo.tpot * 1000:.4g} ms",
    ]
    for line in lines:
        console.print(Text(line), soft_wrap=True)
    console.print()
    columns = results[:SIDE_BY_SIDE] if len(results) <= SIDE_BY_SIDE else ()
    console.print(_side_by_side(columns) if columns else _rows(results))
    console.print(Text("area bound: the work at the best a worker can do; no fleet is below it"))
    for line in (*_comparisons(results), *_notes(results)):
        console.print(Text(line), soft_wrap=True)
    console.print()
    console.print(charts(results, max(console.width - 4, 20)))


def _comparisons(results: Sequence[Result]) -> Iterator[str]:
    """What each file costs and keeps beside the first: "after.yaml beside before.yaml: ..."."""
    first, *others = (result for result in results if not result.variant.baseline)
    for other in others:
        points = 100 * (other.summary.attainment - first.summary.attainment)
        line = f"{other.variant.name} beside {first.variant.name}: attainment {points:+.2f} points"
        one, another = first.summary.cost, other.summary.cost
        if one and another is not None:
            line += f", dollars {another:,.2f} instead of {one:,.2f} ({another / one - 1:+.1%})"
        yield line


def _notes(results: Sequence[Result]) -> Iterator[str]:
    return (f"{r.variant.name}: {note}" for r in results for note in r.outcome.history.notes)


def charts(results: Sequence[Result], width: int) -> RenderableType:
    """Load against replicas, one pair of lines for each."""
    drawn: list[RenderableType] = []
    end = max(result.outcome.history.ended for result in results)
    for result in results:
        samples = result.outcome.history.samples
        load = _binned(samples, end, width - 16, lambda s: s.waiting + s.running)
        ready = _binned(samples, end, width - 16, lambda s: s.ready)
        drawn += [
            Text(result.variant.name, style="bold"),
            Text(f"  {'in flight':9} {max(load, default=0):>5} {_spark(load)}", style="cyan"),
            Text(f"  {'replicas':9} {max(ready, default=0):>5} {_spark(ready)}", style="green"),
        ]
    drawn.append(Text(f"  {'':15} {'0':<{max(width - 26, 1)}}{_duration(end):>10}", style="dim"))
    return Group(*drawn)


def _side_by_side(results: Sequence[Result]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for result in results:
        table.add_column(result.variant.name, justify="right", overflow="fold")
    for name, show in _MEASURES.items():
        told = [show(result) for result in results]
        if name in _ONLY_WHERE_THERE_ARE_ANY and not any(re.search("[1-9]", cell) for cell in told):
            continue
        table.add_row(name, *told)
    for title, of in (
        ("decided by, of the time", _decided_by),
        ("changes by", _changes_by),
    ):
        table.add_row("")
        table.add_row(Text(title, style="dim"))
        parts = dict.fromkeys(part for result in results for part in of(result))
        for part in parts:
            table.add_row(f"  {part}", *(of(result).get(part, "") for result in results))
    return table


def _rows(results: Sequence[Result]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in _SHORT:
        table.add_column(name, justify="right")
    for result in results:
        table.add_row(result.variant.name, *(show(result) for show in _SHORT.values()))
    return table


def _bound(result: Result) -> float:
    options = result.variant.options
    return area_bound(result.variant.trace, options.calibration, options.max_sequences)


def _decided_by(result: Result) -> Mapping[str, str]:
    return {part: f"{share:.1%}" for part, share in result.summary.decided_by.items()}


def _changes_by(result: Result) -> Mapping[str, str]:
    return {part: str(count) for part, count in result.summary.changes_by.items()}


def _money(summary: Summary) -> str:
    return "-" if summary.cost is None else f"{summary.cost:,.2f}"


def _seconds(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:,.2f} s"


def _hours(use: str) -> Callable[[Result], str]:
    return lambda result: f"{result.summary.hours[use]:.2f}"


def _part(what: str) -> Callable[[Result], str]:
    return lambda result: f"{result.summary.costs.get(what, 0.0):,.2f}"


def _refused(result: Result) -> str:
    refused = {k: n for k, n in result.summary.outcomes.items() if k != "done"}
    return ", ".join(f"{n:,} {why.removeprefix('refused: ')}" for why, n in refused.items()) or "0"


_MEASURES: Final[dict[str, Callable[[Result], str]]] = {
    "requests": lambda r: f"{r.summary.requests:,}",
    "attainment": lambda r: f"{r.summary.attainment:.2%}",
    "refused": _refused,
    "dollars": lambda r: _money(r.summary),
    "  on demand": _part("onDemand"),
    "  on spot": _part("spot"),
    "  standbys": _part("standby"),
    "replica-hours": lambda r: f"{r.summary.replica_hours:.2f}",
    "  serving": _hours("serving"),
    "  idle": _hours("idle"),
    "  cold": _hours("cold"),
    "  draining": _hours("draining"),
    "  area bound": lambda r: f"{_bound(r):.2f}",
    "replicas, mean and most": lambda r: (
        f"{r.summary.mean_replicas:.2f}, {r.summary.most_replicas}"
    ),
    "TTFT p50": lambda r: _seconds(r.summary.ttft.p50),
    "TTFT p95": lambda r: _seconds(r.summary.ttft.p95),
    "TTFT p99": lambda r: _seconds(r.summary.ttft.p99),
    "TPOT p50": lambda r: _seconds(r.summary.tpot.p50),
    "TPOT p95": lambda r: _seconds(r.summary.tpot.p95),
    "TPOT p99": lambda r: _seconds(r.summary.tpot.p99),
    "wait p99": lambda r: _seconds(r.summary.wait.p99),
    "wait of the oldest": lambda r: _seconds(r.summary.oldest_wait),
    "met a cold fleet": lambda r: f"{r.summary.met_cold:,}",
    "scaling actions an hour": lambda r: f"{r.summary.actions_per_hour:.1f}",
    "standby-hours": lambda r: f"{r.summary.standby_hours:.2f}",
    "claims, and misses of pools": lambda r: f"{r.summary.hits}, {r.summary.misses}",
    "interruptions": lambda r: f"{r.summary.interrupted}",
    "streams moved, and begun anew": lambda r: f"{r.summary.moved}, {r.summary.rerun}",
}
_ONLY_WHERE_THERE_ARE_ANY: Final = (
    "  on demand",
    "  on spot",
    "  standbys",
    "standby-hours",
    "claims, and misses of pools",
    "interruptions",
    "streams moved, and begun anew",
)
_SHORT: Final[dict[str, Callable[[Result], str]]] = {
    "attained": lambda r: f"{r.summary.attainment:.2%}",
    "dollars": lambda r: _money(r.summary),
    "hours": lambda r: f"{r.summary.replica_hours:.2f}",
    "idle": _hours("idle"),
    "cold": _hours("cold"),
    "bound": lambda r: f"{_bound(r):.2f}",
    "TTFT p50": lambda r: _seconds(r.summary.ttft.p50),
    "p99": lambda r: _seconds(r.summary.ttft.p99),
    "oldest": lambda r: _seconds(r.summary.oldest_wait),
    "TPOT p95": lambda r: _seconds(r.summary.tpot.p95),
    "met cold": lambda r: f"{r.summary.met_cold:,}",
    "actions/h": lambda r: f"{r.summary.actions_per_hour:.1f}",
}


def _binned(
    samples: Sequence[Sample], end: float, width: int, value: Callable[[Sample], int]
) -> list[int]:
    """The highest in each of `width` parts; a part without a sample has the last one's."""
    bins: list[int | None] = [None] * max(width, 1)
    for sample in samples:
        place = min(int(sample.at / end * len(bins)), len(bins) - 1) if end > 0 else 0
        bins[place] = max(bins[place] or 0, value(sample))
    last, result = 0, []
    for found in bins:
        last = last if found is None else found
        result.append(last)
    return result


def _spark(values: Sequence[int]) -> str:
    most = max(values, default=0) or 1
    return "".join(
        BLOCKS[math.ceil(value / most * (len(BLOCKS) - 1))] if value else " " for value in values
    )


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {left} s" if minutes else f"{seconds:.0f} s"

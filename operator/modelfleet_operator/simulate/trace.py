"""Traces: when requests came, and how many tokens each had. Reads CSV and JSON lines, also .gz."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import json
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

from ..errors import TraceError

LONGEST = 100_000_000  # tokens of a request: more is not a length


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order of arrival; `arrivals` are seconds since the first."""

    arrivals: array[float]
    prompts: array[int]  # tokens
    answers: array[int]  # tokens, 1 at least
    models: tuple[str, ...]  # of each request; empty: the trace names none
    source: str  # what was read, and as what it was recognised

    def __len__(self) -> int:
        return len(self.arrivals)

    @property
    def seconds(self) -> float:
        """From the first arrival to the last."""
        return self.arrivals[-1] if self.arrivals else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How one kind of trace names its columns."""

    name: str
    arrival: str
    prompt: str
    answer: str
    model: str = ""  # a column that tells deployments apart; empty: there is none
    unit: float = 1.0  # of `arrival`, in seconds
    is_ordered: bool = True  # False: rows come as requests end, and are sorted
    skip: str = ""  # a row is left out where this column is not empty and not 200


# The first whose columns are all there. Public traces keep the names that they were published with.
LAYOUTS: Final = (
    Layout(
        name="the gateway's access log",
        arrival="arrival", prompt="prompt_tokens", answer="completion_tokens", model="model",
        skip="status", is_ordered=False,
    ),
    Layout(
        name="Azure LLM inference trace",
        arrival="TIMESTAMP", prompt="ContextTokens", answer="GeneratedTokens",
    ),
    Layout(
        name="BurstGPT",
        arrival="Timestamp", prompt="Request tokens", answer="Response tokens", model="Model",
    ),
    Layout(
        name="Mooncake trace",
        arrival="timestamp", prompt="input_length", answer="output_length", unit=0.001,
    ),
    Layout(
        name="Azure LLM inference trace, made relative",
        arrival="arrival_s", prompt="input_tokens", answer="output_tokens", model="service",
    ),
    Layout(name="arrivals and tokens", arrival="arrival", prompt="prompt_tokens",
           answer="output_tokens", model="model"),
    Layout(name="arrivals and tokens", arrival="arrival", prompt="input_tokens",
           answer="output_tokens", model="model"),
    Layout(name="arrivals and tokens", arrival="timestamp", prompt="prompt_tokens",
           answer="output_tokens", model="model"),
)  # fmt: skip

Row = Mapping[str, object]


def read_trace(path: Path, *, model: str = "") -> Trace:
    """Every request of the file; with `model`, those of this model. TraceError names the line.

    `arrival` is in seconds, or a date (as in the Azure traces); a row of the access log without an
    answer (a refused request) is left out.
    """
    arrivals, prompts, answers = array("d"), array("q"), array("q")
    names: list[str] = []
    shared: dict[str, str] = {}  # one string for each model
    with open_text(path) as file:
        rows = _rows(path, file)
        line, row = next(rows, (0, None))
        if row is None:
            raise TraceError(f"{path}: expected a row for each request, found none")
        layout = _layout(path, row)
        has_model = bool(layout.model) and layout.model in row
        latest = -math.inf
        while row is not None:
            where = f"{path}, line {line}"
            name = str(row.get(layout.model) or "") if has_model else ""
            if not (layout.skip and str(row.get(layout.skip) or "200") != "200"):
                at = _seconds(row, layout, where)
                if at < latest and layout.is_ordered:
                    raise TraceError(
                        f"{where}: {layout.arrival} is {row[layout.arrival]}, which is before the "
                        "request above it: sort the trace by arrival"
                    )
                latest = at
                prompt = _tokens(row, layout.prompt, where)
                answer = _tokens(row, layout.answer, where)
                if not model or _is_model(name, model):
                    arrivals.append(at)
                    prompts.append(max(prompt, 1))
                    answers.append(max(answer, 1))
                    if has_model:
                        names.append(shared.setdefault(name, name))
            line, row = next(rows, (0, None))
    if not arrivals:
        found = f"of model {model}" if model else "with an answer"
        raise TraceError(f"{path}: expected requests {found}, found none")
    return _from_zero(
        Trace(arrivals, prompts, answers, tuple(names), f"{path} ({layout.name})"),
        is_ordered=layout.is_ordered,
    )


def _from_zero(trace: Trace, *, is_ordered: bool) -> Trace:
    """In order, and from its first arrival on."""
    places: Sequence[int] = range(len(trace))
    if not is_ordered:
        places = sorted(places, key=trace.arrivals.__getitem__)
    first = trace.arrivals[places[0]]
    return Trace(
        array("d", (trace.arrivals[place] - first for place in places)),
        array("q", (trace.prompts[place] for place in places)),
        array("q", (trace.answers[place] for place in places)),
        tuple(trace.models[place] for place in places) if trace.models else (),
        trace.source,
    )


def open_text(path: Path) -> TextIO:
    """The file's text, unpacked if its name ends in .gz. TraceError if it cannot be read."""
    try:
        if path.suffix == ".gz":
            return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig", newline="")
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise TraceError(f"the trace {path} cannot be read: {error.strerror}") from error


def stem(path: Path) -> str:
    """The name without .gz, .csv and the like."""
    return path.name.removesuffix(".gz").rpartition(".")[0]


def columns(path: Path) -> list[str]:
    """Those of the header; of JSON lines, those of the first one."""
    with open_text(path) as file:
        _, row = next(_rows(path, file), (0, {}))
    return list(row)


def _rows(path: Path, file: TextIO) -> Iterator[tuple[int, Row]]:
    """Each row with the number of its line."""
    try:
        if any(suffix in path.name for suffix in (".jsonl", ".json", ".ndjson", ".log")):
            for number, text in enumerate(file, 1):
                if not text.strip():
                    continue
                row = _json(text, f"{path}, line {number}")
                if row.get("event", "access") == "access":  # else another line of a gateway's log
                    yield number, row
            return
        reader = csv.reader(file)
        header = next(reader, [])
        for values in reader:
            if not values:
                continue
            if len(values) != len(header):
                raise TraceError(
                    f"{path}, line {reader.line_num}: expected {len(header)} columns "
                    f"({', '.join(header)}), found {len(values)}"
                )
            yield reader.line_num, dict(zip(header, values, strict=True))
    except (UnicodeDecodeError, EOFError, csv.Error, OSError) as error:
        raise TraceError(f"{path}: expected CSV or JSON lines: {error}") from error


def _json(text: str, where: str) -> Row:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise TraceError(f"{where}: expected a JSON object: {error}") from error
    if not isinstance(row, dict):
        raise TraceError(f"{where}: expected a JSON object, found {text.strip()[:60]}")
    return row


def _layout(path: Path, row: Row) -> Layout:
    for layout in LAYOUTS:
        if {layout.arrival, layout.prompt, layout.answer} <= row.keys():
            return layout
    known = "; ".join(f"{a.arrival}, {a.prompt}, {a.answer}" for a in LAYOUTS)
    raise TraceError(
        f"{path}: expected columns for arrival, prompt tokens and answer tokens ({known}), "
        f"found {', '.join(row)}"
    )


def _seconds(row: Row, layout: Layout, where: str) -> float:
    value = row[layout.arrival]
    try:
        at = float(value) if isinstance(value, int | float | str) else math.nan
    except ValueError:
        try:
            at = _date(str(value))
        except ValueError:
            at = math.nan
    if not math.isfinite(at):
        raise TraceError(f"{where}: {layout.arrival}: expected seconds or a date, found {value!r}")
    return at * layout.unit


def _date(text: str) -> float:
    """`2023-11-16 18:17:03.9799600`: with more digits than Python reads."""
    whole, dot, digits = text.partition(".")
    zone = ""
    for sign in ("+", "Z", "-"):
        head, found, tail = digits.partition(sign)
        if found:
            digits, zone = head, "+00:00" if sign == "Z" else found + tail
    date = datetime.datetime.fromisoformat(whole + (zone if dot else ""))
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
    return date.timestamp() + (float(f"0.{digits}") if digits else 0.0)


def _tokens(row: Row, column: str, where: str) -> int:
    value = row.get(column)
    try:
        count = float(value) if isinstance(value, int | float | str) else -1.0
    except ValueError:
        count = -1.0
    if not 0 <= count <= LONGEST:
        raise TraceError(f"{where}: {column}: expected a number of tokens, found {value!r}")
    return int(count)


def _is_model(name: str, wanted: str) -> bool:
    return name == wanted or name.rpartition("/")[2] == wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Which part of a trace is simulated, and how much of it."""

    start: float = 0.0  # seconds
    length: float = math.inf
    factor: float = 1.0  # of the load
    seed: int = 0
    client: str = field(default="")  # of a trace of rates


def cut(trace: Trace, part: Cut) -> Trace:
    """Requests of the part. A factor leaves requests out, or repeats them within a second.

    Factor 2.5: each request comes twice, every other one a third time.
    """
    import bisect
    import random

    begin = bisect.bisect_left(trace.arrivals, part.start)
    end = bisect.bisect_left(trace.arrivals, part.start + part.length)
    if begin == end:
        raise TraceError(
            f"{trace.source}: there are no requests from {part.start:g} s on for "
            f"{part.length:g} s; the trace lasts {trace.seconds:g} s"
        )
    if (begin, end, part.factor) == (0, len(trace), 1.0):
        return trace
    chosen: list[tuple[float, int]] = []
    source = random.Random(part.seed)
    for place in range(begin, end):
        at = trace.arrivals[place] - trace.arrivals[begin]
        times = int(part.factor) + (source.random() < part.factor % 1)
        chosen += [(at + (source.random() if copy else 0.0), place) for copy in range(times)]
    chosen.sort()
    if not chosen:
        raise TraceError(f"{trace.source}: with a factor of {part.factor:g} no request is left")
    return Trace(
        array("d", (at for at, _ in chosen)),
        array("q", (trace.prompts[place] for _, place in chosen)),
        array("q", (trace.answers[place] for _, place in chosen)),
        tuple(trace.models[place] for _, place in chosen) if trace.models else (),
        trace.source,
    )


def of_model(trace: Trace, names: frozenset[str]) -> Trace:
    """Its requests for any of these names."""
    kept = [place for place, name in enumerate(trace.models) if name in names]
    return Trace(
        array("d", (trace.arrivals[place] for place in kept)),
        array("q", (trace.prompts[place] for place in kept)),
        array("q", (trace.answers[place] for place in kept)),
        (),
        trace.source,
    )

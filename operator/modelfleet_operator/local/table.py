"""`modelfleet status`: one line for each deployment, and what there is to say about it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from ..decisions.rendering import parse_time
from ..terminal import printable

_COLOURS = {"True": "green", "False": "yellow", "Unknown": "yellow", "": "cyan"}
_ON_ITS_WAY = frozenset({"Starting", "Waking"})  # reasons of Ready; the line has the progress
_SILENT = _ON_ITS_WAY | {"Serving", "Asleep"}  # those whose message says nothing new
_GAP = 2  # columns between columns


def chosen(
    deployments: list[dict[str, Any]], names: Collection[str], namespace: str | None
) -> list[dict[str, Any]]:
    """Those with one of these names, `NAME` or `NAMESPACE/NAME`, in this namespace; none: all."""
    return [
        deployment
        for deployment in deployments
        if namespace in (None, deployment["metadata"]["namespace"])
        and (not names or {_full_name(deployment), deployment["metadata"]["name"]} & set(names))
    ]


def as_list(deployments: list[dict[str, Any]]) -> dict[str, Any]:
    """As `kubectl get -o json` prints it."""
    return {"apiVersion": "v1", "kind": "List", "items": deployments}


def table(
    deployments: list[dict[str, Any]], *, endpoint: str, width: int, now: float, wide: bool = False
) -> Text:
    """NAME, READY, REASON, WORKERS, QUEUE and AGE; `wide` adds START, MODEL and REVISION.

    What a condition says is a line of its own, wrapped to `width`. `endpoint` is empty until the
    gateway is ready; until then nothing can be known of workers, and that is no fault.
    """
    head = ["NAME", "READY", "REASON", "WORKERS", "QUEUE", "AGE"]
    head += ["START", "MODEL", "REVISION"] if wide else []
    rows, colours, notes = [], [], []
    for deployment in deployments:
        ready, reason = _ready(deployment, endpoint, now)
        rows.append(_cells(deployment, ready or "-", reason, now, wide=wide))
        colours.append(_COLOURS[ready])
        notes.append(_notes(deployment, endpoint))
    lines = _aligned([head, *rows])
    shown = Text(lines[0], style="bold")
    for line, colour, note in zip(lines[1:], colours, notes, strict=True):
        shown.append("\n").append(line, style=colour)
        for sentence in note:
            for part in _wrapped(sentence, width):
                shown.append("\n").append(part, style="dim")
    where = f"endpoint: {endpoint}/v1" if endpoint else "endpoint: the gateway starts"
    return shown.append(f"\n\n{where}" if rows else f"\n{where}")


def _full_name(deployment: Mapping[str, Any]) -> str:
    metadata = deployment["metadata"]
    return f"{metadata['namespace']}/{metadata['name']}"


def _conditions(deployment: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {condition["type"]: condition for condition in deployment["status"]["conditions"]}


def _ready(deployment: Mapping[str, Any], endpoint: str, now: float) -> tuple[str, str]:
    """Status and reason of Ready; the status is empty while the fleet itself starts."""
    ready = _conditions(deployment)["Ready"]
    if ready["status"] == "Unknown" and not endpoint:
        return "", "Starting"
    reason = ready["reason"]
    if progress := _progress(deployment, now):
        reason = f"{reason} ({progress})"
    return ready["status"], reason


def _progress(deployment: Mapping[str, Any], now: float) -> str:
    """`Weights 40 %, 3 s` while nothing but a worker's start is waited for."""
    cold = deployment["status"].get("coldStart")
    if cold is None or _conditions(deployment)["Ready"]["reason"] not in _ON_ITS_WAY:
        return ""
    left = parse_time(cold["eta"]) - now if "eta" in cold else 0.0
    eta = f", {left:.0f} s" if left >= 1 else ""
    return f"{cold['phase']} {cold['percent']} %{eta}"


def _cells(
    deployment: Mapping[str, Any], ready: str, reason: str, now: float, *, wide: bool
) -> list[str]:
    metadata, status = deployment["metadata"], deployment["status"]
    queue = status.get("queue")
    name = _full_name(deployment).removeprefix("default/")
    created = metadata.get("creationTimestamp")
    cells = [
        name,
        ready,
        reason,
        f"{status['readyReplicas']}/{status.get('desiredReplicas', status['replicas'])}",
        f"{queue['waiting']}+{queue['running']}" if queue else "-",
        _age(now - parse_time(created)) if created else "-",
    ]
    if wide:
        cells += [_start(status), deployment["spec"]["model"]["source"], status["revision"]]
    return [printable(cell) for cell in cells]


def _start(status: Mapping[str, Any]) -> str:
    """What a start takes, and its longest phase: `2.4s (load 1.9s)`."""
    if not status.get("coldStarts"):
        return "-"
    seconds = dict(status["coldStarts"][0]["seconds"])
    total = seconds.pop("total")
    longest = max(seconds, key=lambda phase: float(seconds[phase].removesuffix("s")))
    return f"{total} ({longest} {seconds[longest]})"


def _notes(deployment: Mapping[str, Any], endpoint: str) -> list[str]:
    """What the line does not say."""
    conditions = _conditions(deployment)
    ready = conditions["Ready"]
    notes = []
    if ready["reason"] not in _SILENT and not (ready["status"] == "Unknown" and not endpoint):
        notes.append(ready["message"])
    for kind in ("Stalled", "NameConflict"):
        condition = conditions[kind]
        if condition["status"] == "True" and condition["message"] not in notes:
            notes.append(condition["message"])
    notes += [_interruption(told) for told in deployment["status"].get("interruptions", ())]
    return [printable(" ".join(note.split())) for note in notes if note]


def _interruption(told: Mapping[str, str]) -> str:
    by = f" by {told['deadline']}" if "deadline" in told else ""
    return f"{told['worker']} is told to go: {told['kind']}{by} ({told['source']})"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    return [
        "".join(
            cell + " " * (width - cell_len(cell) + _GAP)
            for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def _wrapped(sentence: str, width: int) -> list[str]:
    """Indented; a word that is longer than a line, such as a path, stays whole to be copied."""
    indent = "  "
    lines, line = [], ""
    for word in sentence.split(" "):
        if line and cell_len(indent) + cell_len(line) + 1 + cell_len(word) > width:
            lines.append(indent + line)
            line = ""
        line = f"{line} {word}" if line else word
    return [*lines, indent + line]


def _age(seconds: float) -> str:
    """As kubectl shortens it: 45s, 12m, 5h, 3d."""
    seconds = max(int(seconds), 0)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"

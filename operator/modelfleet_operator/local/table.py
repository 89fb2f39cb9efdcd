"""`modelfleet status`: one line for each deployment, and why it is not ready."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from .state import StateDirectory

INTERVAL = 0.5  # seconds between two refreshes of --watch
_COLOURS = {"True": "green", "False": "yellow", "Unknown": "yellow"}


def show(directory: StateDirectory, *, watch: bool) -> int:
    """Returns the exit code: 1 when no fleet runs with this state directory."""
    console = Console()
    if directory.holder() is None:
        Console(stderr=True, soft_wrap=True).print(
            f"no fleet runs with the state directory {directory.path}: "
            "start one with `modelfleet up FILE...`, or name its --state-dir",
            highlight=False,
        )
        return 1
    if not watch:
        console.print(table(directory.read_statuses()))
        return 0
    with Live(console=console, auto_refresh=False) as live:
        while directory.holder() is not None:
            live.update(table(directory.read_statuses()), refresh=True)
            time.sleep(INTERVAL)
    return 0


def table(deployments: list[dict[str, Any]]) -> Table:
    """NAME, READY, REPLICAS, QUEUE, MODEL and what there is to say about it."""
    result = Table("NAME", "READY", "REPLICAS", "QUEUE", "MODEL", "WHY", box=None, pad_edge=False)
    for deployment in deployments:
        metadata, status = deployment["metadata"], deployment["status"]
        conditions = {condition["type"]: condition for condition in status["conditions"]}
        ready, queue = conditions["Ready"], status.get("queue")
        notes = [ready["message"]]
        notes += [
            conditions[kind]["message"]
            for kind in ("Stalled", "NameConflict")
            if conditions[kind]["status"] == "True" and conditions[kind]["message"] not in notes
        ]
        colour = _COLOURS[ready["status"]]
        result.add_row(
            f"{metadata['namespace']}/{metadata['name']}",
            f"[{colour}]{ready['status']} ({ready['reason']})[/{colour}]",
            f"{status['readyReplicas']}/{status['replicas']}",
            f"{queue['waiting']}+{queue['running']}" if queue else "?",
            deployment["spec"]["model"]["source"],
            "; ".join(notes),
        )
    return result

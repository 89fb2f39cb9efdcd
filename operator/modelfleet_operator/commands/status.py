"""`modelfleet status`: what runs on this machine."""

from __future__ import annotations

import enum
import time
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Names, StateDir, state_directory

if TYPE_CHECKING:
    from rich.text import Text

    from ..local.state import StateDirectory

INTERVAL = 0.5  # seconds between two refreshes of --watch


class Output(enum.StrEnum):
    """What is printed."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"


def status(
    names: Names = None,
    namespace: Annotated[
        str | None,
        typer.Option("--namespace", "-n", help="Only this namespace's.", show_default=False),
    ] = None,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="wide adds columns; json is for programs.")
    ] = Output.TABLE,
    state_dir: StateDir = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it again as it changes.")
    ] = False,
) -> None:
    """Show what runs on this machine and, where it is not ready, why."""
    directory = state_directory(state_dir)
    if directory.holder() is None:
        typer.echo(
            f"no fleet runs with the state directory {directory.path}: "
            "start one with `modelfleet up FILE...`, or name its --state-dir",
            err=True,
        )
        raise typer.Exit(1)
    asked = frozenset(names or ())
    missing = sorted(asked - _names(directory, namespace))
    if missing and len(missing) == len(asked):
        typer.echo(directory.has_no(", ".join(missing)), err=True)
        raise typer.Exit(1)
    if output is Output.JSON:
        if watch:
            raise typer.BadParameter("it shows one moment: no --watch", param_hint="--output json")
        _print_json(directory, asked, namespace)
    elif watch:
        _watch(directory, asked, namespace, wide=output is Output.WIDE)
    else:
        _print_table(directory, asked, namespace, wide=output is Output.WIDE)
    if missing:
        typer.echo(directory.has_no(", ".join(missing)), err=True)
        raise typer.Exit(1)


def _names(directory: StateDirectory, namespace: str | None) -> set[str]:
    """Every name that finds a deployment or a warm pool."""
    found = (d["metadata"] for d in (*directory.read_statuses(), *directory.read_pools()))
    return {
        name
        for m in found
        if namespace in (None, m["namespace"])
        for name in (m["name"], f"{m['namespace']}/{m['name']}")
    }


def _print_json(directory: StateDirectory, names: frozenset[str], namespace: str | None) -> None:
    import json

    from ..local.table import as_list, chosen

    found = chosen(directory.read_statuses(), names, namespace)
    found += chosen(directory.read_pools(), names, namespace)
    typer.echo(json.dumps(as_list(found), indent=2, ensure_ascii=False))


def _print_table(
    directory: StateDirectory, names: frozenset[str], namespace: str | None, *, wide: bool
) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    shown = _table(directory, names, namespace, console.width, wide=wide)
    console.print(shown, soft_wrap=True)


def _watch(
    directory: StateDirectory, names: frozenset[str], namespace: str | None, *, wide: bool
) -> None:
    """Until the fleet ends, or Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        while directory.holder() is not None:
            shown = _table(directory, names, namespace, console.width, wide=wide)
            live.update(shown, refresh=True)
            time.sleep(INTERVAL)


def _table(
    directory: StateDirectory,
    names: frozenset[str],
    namespace: str | None,
    width: int,
    *,
    wide: bool,
) -> Text:
    from ..local.pool_table import pool_lines
    from ..local.table import chosen, table

    shown = table(
        chosen(directory.read_statuses(), names, namespace),
        endpoint=directory.endpoint(),
        width=width,
        now=time.time(),
        wide=wide,
    )
    pools = pool_lines(chosen(directory.read_pools(), names, namespace))
    return shown.append("".join(f"\n{line}" for line in pools))

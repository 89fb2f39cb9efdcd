"""`modelfleet logs`: what the workers of a deployment say."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from .options import (
    Context,
    Kubeconfig,
    Name,
    Namespace,
    StateDir,
    asks_cluster,
    full_name,
    is_local,
    no_fleet,
    state_directory,
)


def logs(
    name: Name,
    namespace: Namespace = "default",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")
    ] = False,
    tail: Annotated[
        int, typer.Option(min=-1, help="The last lines of each worker; -1 shows all.")
    ] = 100,
    state_dir: StateDir = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show what the workers of a deployment log, on this machine or on a cluster."""
    from ..errors import LogsError, StartError

    key = full_name(name, namespace)
    directory = state_directory(state_dir)
    if is_local(directory, state_dir, kubeconfig, context):
        try:
            _show_local(directory.logs, key, tail, follows=follow)
        except LogsError:
            if directory.holder() is None or key.removeprefix("default/") in directory.names():
                raise
            raise LogsError(directory.has_no(key)) from None
        return
    try:
        _show_of_cluster(key, kubeconfig, context, tail, follows=follow)
    except StartError as error:
        if (
            not asks_cluster(kubeconfig, context) and directory.logs.exists()
        ):  # of a fleet that has ended
            _show_local(directory.logs, key, tail, follows=False)
            return
        raise LogsError(no_fleet(directory, error)) from error


def _show_local(folder: Path, key: str, tail: int, *, follows: bool) -> None:
    from ..local.logs import find_logs, follow, last_lines

    ends = {}
    for worker, file in find_logs(folder, key).items():
        lines, ends[worker] = last_lines(file, tail)
        _show((worker, line) for line in lines)
    if follows:
        _show(follow(folder, key, ends))


def _show_of_cluster(
    key: str, kubeconfig: Path | None, context: str | None, tail: int, *, follows: bool
) -> None:
    import asyncio

    from ..cluster.logs import read_logs

    async def show() -> None:
        lines = read_logs(key, kubeconfig=kubeconfig, context=context, tail=tail, follows=follows)
        async for line in lines:
            _show([line])

    asyncio.run(show())


def _show(lines: Iterable[tuple[str, str]]) -> None:
    """Each with its worker's name: what they say is often alike."""
    import sys

    from ..terminal import printable

    is_terminal = sys.stdout.isatty()
    for worker, line in lines:
        typer.echo(f"[{worker}] {printable(line) if is_terminal else line}")

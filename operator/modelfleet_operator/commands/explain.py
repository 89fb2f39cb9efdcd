"""`modelfleet explain`: why a fleet is as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    Context,
    Kubeconfig,
    Name,
    Namespace,
    StateDir,
    full_name,
    is_local,
    no_fleet,
    state_directory,
)


def explain(
    name: Name = "",
    namespace: Namespace = "default",
    save: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also keep what the decisions saw, to replay it."),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Decide again what --save kept.", exists=True, dir_okay=False
        ),
    ] = None,
    state_dir: StateDir = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    operator_namespace: Annotated[
        str, typer.Option(help="Where the operator runs on the cluster.")
    ] = "modelfleet-system",
    lease_name: Annotated[
        str, typer.Option(help="The operator's Lease; it has the name of the chart's release.")
    ] = "modelfleet-operator",
) -> None:
    """Show what the operator sees of a ModelDeployment, and why it does what it does."""
    import asyncio

    from ..errors import ExplainError, StartError
    from ..explain.report import report
    from ..explain.snapshot import dump_snapshot, load_snapshot

    if bool(name) == bool(replay):
        raise typer.BadParameter("give the name of a ModelDeployment, or --replay FILE")
    if replay is not None:
        snapshot = load_snapshot(replay.read_bytes())
    else:
        key = full_name(name, namespace)
        directory = state_directory(state_dir)
        if is_local(directory, state_dir, kubeconfig, context):
            from ..local.explain import fetch_snapshot as fetch_locally

            snapshot = fetch_locally(directory, key)
        else:
            from ..cluster.explain import fetch_snapshot

            try:
                snapshot = asyncio.run(
                    fetch_snapshot(
                        key,
                        kubeconfig=kubeconfig,
                        context=context,
                        namespace=operator_namespace,
                        lease=lease_name,
                    )
                )
            except StartError as error:
                raise ExplainError(no_fleet(directory, error)) from error
    if save is not None:
        try:
            save.write_text(dump_snapshot(snapshot))
        except OSError as error:
            raise ExplainError(f"--save: cannot write {save}: {error.strerror}") from error
    typer.echo(report(snapshot))

"""`modelfleet models`: what a gateway serves."""

from __future__ import annotations

import enum
import json
from typing import Annotated

import typer

from .options import Endpoint, StateDir, api_key, find_endpoint


class Output(enum.StrEnum):
    """What is printed."""

    TABLE = "table"
    JSON = "json"


def models(
    endpoint: Endpoint = "",
    state_dir: StateDir = None,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="json is the gateway's own answer.")
    ] = Output.TABLE,
) -> None:
    """List the names that a gateway answers to, of the fleet on this machine or of a cluster.

    A gateway that asks for an API key gets the one in $MODELFLEET_API_KEY.
    """
    from ..client.gateway import connect, list_models
    from ..terminal import printable

    with connect(find_endpoint(endpoint, state_dir), api_key()) as gateway:
        listed = list_models(gateway)
    if output is Output.JSON:
        typer.echo(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    rows = [("NAME", "DEPLOYMENT"), *((str(m.get("id")), str(m.get("root", "-"))) for m in listed)]
    width = max(len(name) for name, _ in rows)
    for name, deployment in rows:
        typer.echo(printable(f"{name:<{width}}  {deployment}"))

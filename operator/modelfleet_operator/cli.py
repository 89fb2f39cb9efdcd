"""The command `modelfleet`: which commands there are; each is a file of `commands/`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from modelfleet_process.command_line import STYLE, run_app

from .commands import (
    chat,
    explain,
    key,
    logs,
    models,
    operator,
    parts,
    simulate,
    status,
    up,
    validate,
)

app = typer.Typer(
    help="LLM fleets that cost as little as they can and never drop a request.",
    no_args_is_help=True,
    **STYLE,
)
_FLEET, _MODELS, _PARTS = "A fleet on this machine", "Any fleet", "Parts of a fleet"
for _panel, _commands in (
    (_FLEET, (up.up, status.status, simulate.simulate)),
    (_MODELS, (chat.chat, models.models, logs.logs, explain.explain, validate.validate)),
    (_PARTS, (operator.operator,)),
):
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)
app.add_typer(key.app, name="key", rich_help_panel=_MODELS)
for _part in (parts.gateway, parts.worker):
    app.command(rich_help_panel=_PARTS, context_settings=parts.PASS_ON)(_part)
app.command(rich_help_panel="Checkpoints", context_settings=parts.PASS_ON)(parts.quantize)


def main() -> None:
    """The entry point: our own errors are one message on standard error and exit code 1."""
    from .errors import ModelfleetError

    try:
        code = run_app(app, "modelfleet")
    except ModelfleetError as error:
        from .terminal import printable

        typer.echo(printable(str(error)), err=True)
        code = 1
    sys.exit(code)


def _show_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        typer.echo(f"modelfleet {importlib.metadata.version('modelfleet')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass

"""`modelfleet gateway`, `worker` and `quantize`: the parts read their own command lines."""

from __future__ import annotations

import os
import sys
from typing import Any, Final, NoReturn

import typer

# `--help` is theirs, too.
PASS_ON: Final[dict[str, Any]] = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}
_MODULES: Final = {
    "gateway": "modelfleet_gateway",
    "worker": "modelfleet_worker",
    "quantize": "modelfleet_worker.quantize",
}


def gateway(context: typer.Context) -> None:
    """Run a gateway, as `modelfleet up` and the images do."""
    _become("gateway", context.args)


def worker(context: typer.Context) -> None:
    """Run a worker, as `modelfleet up` and the images do."""
    _become("worker", context.args)


def quantize(context: typer.Context) -> None:
    """Write a checkpoint with weights of 4 or 8 bits."""
    _become("quantize", context.args)


def _become(part: str, arguments: list[str]) -> NoReturn:
    """Replaces this process, so that signals and the exit code are the part's own."""
    os.execv(  # noqa: S606
        sys.executable, [sys.executable, "-P", "-m", _MODULES[part], *arguments]
    )

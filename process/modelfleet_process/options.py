"""The options that the commands of all parts share. Imports nothing that makes --help slow."""

from __future__ import annotations

import enum
from typing import Annotated, Final

import typer

LOG_LEVEL_VARIABLE: Final = "MODELFLEET_LOG_LEVEL"


class LogFormat(enum.StrEnum):
    """How log lines look."""

    TEXT = "text"
    JSON = "json"


class LogLevel(enum.StrEnum):
    """The least important lines that are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


LogFormatOption = Annotated[
    LogFormat | None,
    typer.Option(
        "--log-format", help="How log lines look. Default: text on a terminal, else json."
    ),
]
LogLevelOption = Annotated[
    LogLevel,
    typer.Option(
        "--log-level",
        envvar=LOG_LEVEL_VARIABLE,
        case_sensitive=False,
        help="Log this and what is worse; libraries log one level less.",
    ),
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Short for --log-level debug.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Short for --log-level warning.")]
DieWithParentOption = Annotated[
    bool, typer.Option("--die-with-parent", help="End when the parent process ends (Linux).")
]


def chosen_level(log_level: LogLevel, *, verbose: bool, quiet: bool) -> LogLevel:
    """The level that the three options together ask for: -v and -q win over --log-level.

    BadParameter for both -v and -q.
    """
    if verbose and quiet:
        raise typer.BadParameter("choose one of -v and -q", param_hint="--verbose, --quiet")
    if verbose:
        return LogLevel.DEBUG
    return LogLevel.WARNING if quiet else log_level

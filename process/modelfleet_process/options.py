"""The options that the commands of all parts share. Imports nothing that makes --help slow."""

from __future__ import annotations

import enum
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer

LOG_LEVEL_VARIABLE: Final = "MODELFLEET_LOG_LEVEL"
_Result = TypeVar("_Result")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """What --log-format, --log-level, -v and -q ask for together."""

    format: LogFormat | None = None  # None: text on a terminal, else JSON
    level: LogLevel = LogLevel.INFO


DieWithParentOption = Annotated[
    bool, typer.Option("--die-with-parent", help="End when the parent process ends (Linux).")
]


TlsTokenOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar="MODELFLEET_TLS_TOKEN",
        help="The token of this pod's ServiceAccount.",
    ),
]


def takes_log_options(
    default_format: LogFormat | None = None,
) -> Callable[[Callable[..., _Result]], Callable[..., _Result]]:
    """Gives a command the four options for logs, and hands them to its parameter `logs`."""

    def add(command: Callable[..., _Result]) -> Callable[..., _Result]:
        @functools.wraps(command)
        def with_options(
            *,
            log_format: LogFormat | None,
            log_level: LogLevel,
            verbose: bool,
            quiet: bool,
            **others: Any,
        ) -> _Result:
            level = chosen_level(log_level, verbose=verbose, quiet=quiet)
            return command(**others, logs=LogOptions(format=log_format, level=level))

        # Typer reads the options from the signature.
        own = inspect.signature(command, eval_str=True)
        kept = [p for p in own.parameters.values() if p.name != "logs"]
        added = _log_parameters(default_format)
        signature = own.replace(parameters=[*kept, *added])
        with_options.__signature__ = signature  # type: ignore[attr-defined]
        with_options.__annotations__ = {p.name: p.annotation for p in (*kept, *added)}
        return with_options

    return add


def _log_parameters(default_format: LogFormat | None) -> list[inspect.Parameter]:
    default = "text on a terminal, else json" if default_format is None else default_format.value
    options: list[tuple[str, Any, Any]] = [
        (
            "log_format",
            Annotated[
                LogFormat | None,
                typer.Option(
                    "--log-format",
                    show_default=False,
                    help=f"How log lines look. Default: {default}.",
                ),
            ],
            default_format,
        ),
        (
            "log_level",
            Annotated[
                LogLevel,
                typer.Option(
                    "--log-level",
                    envvar=LOG_LEVEL_VARIABLE,
                    case_sensitive=False,
                    help="Log this and what is worse; libraries log one level less.",
                ),
            ],
            LogLevel.INFO,
        ),
        (
            "verbose",
            Annotated[bool, typer.Option("--verbose", "-v", help="Short for --log-level debug.")],
            False,
        ),
        (
            "quiet",
            Annotated[bool, typer.Option("--quiet", "-q", help="Short for --log-level warning.")],
            False,
        ),
    ]
    return [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
        )
        for name, annotation, default in options
    ]


def chosen_level(log_level: LogLevel, *, verbose: bool, quiet: bool) -> LogLevel:
    """-v and -q win over --log-level; BadParameter for both of them."""
    if verbose and quiet:
        raise typer.BadParameter("choose one of -v and -q", param_hint="--verbose, --quiet")
    if verbose:
        return LogLevel.DEBUG
    return LogLevel.WARNING if quiet else log_level

"""Log lines: words for a person on a terminal, JSON for a machine."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog
from rich.console import Console
from rich.markup import escape

LogFormat = Literal["text", "json"]
_COLOURS = {"warning": "yellow", "error": "red", "critical": "red"}


def configure(log_format: LogFormat | None) -> None:
    """Sends structlog and the standard library's warnings to standard error.

    None: text on a terminal, JSON otherwise.
    """
    if log_format is None:
        log_format = "text" if sys.stderr.isatty() else "json"
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
    ]
    if log_format == "json":
        shared += [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
        factory: Any = structlog.PrintLoggerFactory(sys.stderr)
    else:
        shared += [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.processors.format_exc_info,
            render_text,
        ]
        factory = _ConsoleLogger
    structlog.configure(
        processors=shared,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=factory,
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s")


def render_text(_: Any, level: str, event: MutableMapping[str, Any]) -> str:
    """`10:31:02 smollm2: ready in 4.2 s` as rich markup; the default namespace is left out."""
    time, message = event.pop("timestamp", ""), escape(str(event.pop("event")))
    trace = event.pop("exception", "")
    event.pop("level", None)
    model = str(event.pop("model", "")).removeprefix("default/")
    subject = f"[bold]{escape(model)}[/bold]: " if model else ""
    details = escape(", ".join(f"{name} {value}" for name, value in event.items()))
    colour = _COLOURS.get(level)
    line = f"[{colour}]{message}[/{colour}]" if colour else message
    return (
        f"[dim]{time}[/dim] {subject}{line}"
        + (f" [dim]({details})[/dim]" if details else "")
        + (f"\n{escape(trace)}" if trace else "")
    )


class _ConsoleLogger:
    """What structlog ends in: one line through rich, never wrapped."""

    def __init__(self, *_: Any) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    def msg(self, message: str) -> None:
        self._console.print(message)

    log = debug = info = warning = warn = error = critical = fatal = exception = msg

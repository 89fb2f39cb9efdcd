"""Log lines for a person at a terminal, as `modelfleet up` and `modelfleet operator` write them."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

import structlog
from rich.console import Console
from rich.markup import escape

from modelfleet_process.logs import Style

_COLOURS = {"warning": "yellow", "error": "red", "critical": "red"}


def terminal_style() -> Style:
    """The time of day, the model, a sentence, and its details in brackets."""
    return Style(
        processors=(
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.processors.format_exc_info,
            render_text,
        ),
        logger_factory=_ConsoleLogger,
        library_formatter=logging.Formatter("%(name)s: %(message)s"),
    )


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

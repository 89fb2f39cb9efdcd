"""What a person at a terminal reads: log lines, and words of others that cannot steer it."""

from __future__ import annotations

import logging
import re
from collections.abc import MutableMapping
from typing import Any, Final

import structlog
from rich.console import Console
from rich.text import Text

from modelfleet_process.logs import Style

# One for all: a live display keeps below the lines that are printed through its own console.
ERRORS: Final = Console(stderr=True, highlight=False)
_COLOURS: Final = {"warning": "yellow", "error": "red", "critical": "red"}
# All but newline and tab.
_CONTROL_CHARACTERS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Words of workers, models and servers: their control characters become U+FFFD."""
    return _CONTROL_CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", text)


def terminal_style() -> Style:
    """The time of day, the model, a sentence, and its details in brackets."""
    return Style(
        processors=(
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.processors.format_exc_info,
            lambda logger, level, event: ((render_text(logger, level, event),), {}),
        ),
        logger_factory=_ConsoleLogger,
        library_formatter=logging.Formatter("%(name)s: %(message)s"),
    )


def render_text(_: Any, level: str, event: MutableMapping[str, Any]) -> Text:
    """`10:31:02 smollm2: ready in 4.2 s`; the default namespace is left out.

    A `Text` and no markup: what stands in a message is never read as a style.
    """
    time, message = event.pop("timestamp", ""), str(event.pop("event"))
    trace = event.pop("exception", "")
    event.pop("level", None)
    model = str(event.pop("model", "")).removeprefix("default/")
    details = ", ".join(f"{name} {value}" for name, value in event.items())
    line = Text()
    line.append(f"{time} ", style="dim")
    if model:
        line.append(printable(model), style="bold").append(": ")
    line.append(printable(message), style=_COLOURS.get(level))
    if details:
        line.append(f" ({printable(details)})", style="dim")
    if trace:
        line.append(f"\n{printable(trace)}")
    return line


class _ConsoleLogger:
    """What structlog ends in: one line through rich, never wrapped."""

    def __init__(self, *_: Any) -> None:
        pass

    def msg(self, message: Text) -> None:
        ERRORS.print(message, soft_wrap=True)

    log = debug = info = warning = warn = error = critical = fatal = exception = msg

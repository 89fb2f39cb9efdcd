"""Log lines on standard error: text for a person, JSON for a machine; those of libraries, too."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from typing_extensions import override

from .options import LogFormat, LogLevel

_MISSING = object()
# For tracebacks that show variables, which ours never do, structlog would import rich: it takes a
# third of the time of both.
_rich = sys.modules.get("rich", _MISSING)
sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # how Python marks what is not there
import structlog  # noqa: E402
from structlog.typing import Processor  # noqa: E402

if _rich is _MISSING:
    del sys.modules["rich"]

LEVELS: Final = {  # ours, and what libraries log then: their info belongs to our debug
    LogLevel.DEBUG: (logging.DEBUG, logging.INFO),
    LogLevel.INFO: (logging.INFO, logging.WARNING),
    LogLevel.WARNING: (logging.WARNING, logging.WARNING),
    LogLevel.ERROR: (logging.ERROR, logging.ERROR),
}
# When imported, they give their root logger a level of its own, and a handler beside ours.
SELF_CONFIGURED: Final = ("huggingface_hub", "transformers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How lines look."""

    processors: tuple[Processor, ...]  # the last one renders
    logger_factory: Callable[..., Any]
    library_formatter: logging.Formatter | None = None  # None: as our own lines


def console_style(*, utc: bool) -> Style:
    """For a person, as structlog does it: the time in full, aligned fields."""
    return Style(
        processors=(
            structlog.processors.TimeStamper(fmt="iso", utc=utc),
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                # structlog's own shows each frame's variables: prompts and keys among them.
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def json_style() -> Style:
    """For a machine, the same in all parts: one object a line."""
    return Style(
        processors=(
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def configure(log_format: LogFormat | None, level: LogLevel, text_style: Style) -> None:
    """Sends all log lines, libraries' too, to standard error.

    `log_format` None: text on a terminal, else JSON. A line below the level costs a method that
    returns at once, so debug lines may stand in the path of a request.
    """
    as_text = sys.stderr.isatty() if log_format is None else log_format is LogFormat.TEXT
    style = text_style if as_text else json_style()
    ours, libraries = LEVELS[level]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
    ]
    structlog.configure(
        processors=[*shared, *style.processors],
        wrapper_class=structlog.make_filtering_bound_logger(ours),
        logger_factory=style.logger_factory,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        style.library_formatter
        or structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *style.processors,
            ],
        )
    )
    logging.basicConfig(level=libraries, handlers=[handler], force=True)
    for name in SELF_CONFIGURED:
        _take_over(name)


def bind(**fields: str) -> None:
    """What all lines say from now on."""
    structlog.contextvars.bind_contextvars(**fields)


def _take_over(library: str) -> None:
    """Makes the library's root logger before the library does: it keeps to our level and handler.

    A library that is imported already keeps its own.
    """
    usual = logging.getLoggerClass()
    logging.setLoggerClass(_LibraryLogger)
    try:
        logging.getLogger(library)
    finally:
        logging.setLoggerClass(usual)


class _LibraryLogger(logging.Logger):
    """Leaves level and output to the root logger, whatever the library asks for."""

    @property
    def propagate(self) -> bool:
        """Always, so that its lines are written as ours are."""
        return True

    @propagate.setter
    def propagate(self, wanted: bool) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        pass

    @override
    def setLevel(self, level: int | str) -> None:
        pass

    @override
    def addHandler(self, hdlr: logging.Handler) -> None:
        pass

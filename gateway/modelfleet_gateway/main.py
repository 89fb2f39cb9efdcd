"""From options to an exit code."""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import sys
from dataclasses import replace

import uvloop

from modelfleet_process.logs import configure, console_style
from modelfleet_process.options import LogFormat, LogLevel

from .errors import StartupError
from .http.server import serve
from .options import Options


def raise_file_limit() -> None:
    """Raises the limit of open files: each client needs one, and the usual limit is 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def run(options: Options, *, log_format: LogFormat | None, log_level: LogLevel) -> int:
    """Runs a gateway to its end; 1 when it could not start."""
    configure(log_format, log_level, console_style(utc=True))
    raise_file_limit()
    if not options.gateway_id:
        options = replace(options, gateway_id=f"{platform.node()}-{os.getpid()}")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(options))
    except StartupError as error:
        print(f"modelfleet gateway: {error}", file=sys.stderr)  # noqa: T201 - no log line
        return 1
    return 0

"""Every command starts alike: one style of help, and one line for a wrong command line."""

from __future__ import annotations

import sys
from typing import Any, Final

import typer
from typer.exceptions import Abort, TyperException

USAGE_ERROR: Final = 2
INTERRUPTED: Final = 130
# What `typer.Typer` gets in all parts. Without frame locals: they may hold prompts and tokens.
STYLE: Final[dict[str, Any]] = {
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


def run_app(app: typer.Typer, name: str, errors: tuple[type[Exception], ...] = ()) -> int:
    """Runs the command line of this process and returns the exit code.

    `name` is what users type, whichever module is started. A wrong command line, and `errors`,
    which say what their user must correct, are one line on standard error and code 2.
    """
    try:
        code = app(standalone_mode=False, prog_name=name)
    except Abort:
        return INTERRUPTED
    except TyperException as error:
        context = getattr(error, "ctx", None)
        see = f" (see {context.command_path} --help)" if context is not None else ""
        if message := error.format_message().strip():  # without arguments the help was printed
            _complain(f"{message}{see}")
        return USAGE_ERROR
    except errors as error:
        _complain(str(error))
        return USAGE_ERROR
    return int(code or 0)


def _complain(message: str) -> None:
    sys.stderr.write(f"error: {' '.join(message.split())}\n")

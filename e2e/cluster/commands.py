"""Short commands that run to their end, and what the cluster tells its user."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from .errors import CommandError

# Of a Go program that ends at once, whose garbage need not be collected: that is half of a kubectl.
BRIEF: Final = MappingProxyType({"GOGC": "off"})


def say(text: str) -> None:
    """One line for the user, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def command(
    *arguments: str | Path,
    stdin: str | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Returns what the command printed; raises CommandError with its last words.

    The environment is added to our own.
    """
    result = subprocess.run(
        [str(argument) for argument in arguments],
        env={**os.environ, **environment},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        words = "\n".join((result.stderr or result.stdout).strip().splitlines()[-15:])
        raise CommandError(f"`{' '.join(map(str, arguments))}` ended with an error:\n{words}")
    return result.stdout

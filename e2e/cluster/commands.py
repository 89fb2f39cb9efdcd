"""Short commands that run to their end, and what the cluster tells its user."""

import subprocess
import sys
from pathlib import Path

from .errors import CommandError


def say(text: str) -> None:
    """One line for the user, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def command(*arguments: str | Path, stdin: str | None = None) -> str:
    """Returns what the command printed; raises CommandError with its last words."""
    result = subprocess.run(
        [str(argument) for argument in arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        words = "\n".join((result.stderr or result.stdout).strip().splitlines()[-15:])
        raise CommandError(f"`{' '.join(map(str, arguments))}` ended with an error:\n{words}")
    return result.stdout

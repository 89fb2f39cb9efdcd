"""The access log: one JSON object a line for each request. It holds no text of anybody's.

`modelfleet simulate --trace` reads it (docs/simulate.md).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ..errors import StartupError

STANDARD_OUTPUT = "-"


class AccessLog:
    """Appends to a file, or writes to standard output."""

    def __init__(self, path: str) -> None:
        """StartupError if it cannot be opened."""
        try:
            # Line by line, so that a killed gateway leaves whole lines.
            self._file = (
                sys.stdout
                if path == STANDARD_OUTPUT
                else Path(path).open("a", buffering=1, encoding="utf-8")  # noqa: SIM115
            )
        except OSError as error:
            raise StartupError(
                f"--access-log: {path} cannot be written: {error.strerror}"
            ) from error

    def write(
        self,
        *,
        request: str,
        trace: str,
        model: str,
        arrival: float,
        status: int,
        seconds: float,
        ttft: float | None,
        tokens: tuple[int, int] | None,
        key: str = "",
    ) -> None:
        """`arrival` in Unix seconds; `tokens` of prompt and answer, None where they are not known.

        `key`: the key's id (Caller.key_id), empty for none. `trace`: the id of its trace; empty: it
        is part of none. `ttft`: seconds until the first token; None: there was none.
        """
        prompt, completion = tokens or (None, None)
        line = {
            "event": "access",
            "request": request,
            "trace": trace or None,
            "model": model,
            "arrival": round(arrival, 4),
            "status": status,
            "seconds": round(seconds, 4),
            "ttft": None if ttft is None else round(ttft, 4),
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "key": key or None,
        }
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
        if self._file is sys.stdout:
            self._file.flush()

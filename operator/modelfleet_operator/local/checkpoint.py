"""The config.json of a checkpoint that lies on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

LARGEST = 1 << 20  # bytes of a config.json that is read


def read_config(source: str) -> dict[str, Any] | None:
    """None: the source is no folder here, or has no such file that can be read."""
    if not source.startswith("file://"):
        return None
    path = Path(unquote(source.removeprefix("file://"))) / "config.json"
    try:
        if path.stat().st_size > LARGEST:
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None

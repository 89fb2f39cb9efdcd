"""How long models took to load on this machine: it outlives the fleet, for the next estimate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..decisions.memory import Memory

MODELS = 200  # whose times are kept; the oldest go


class LearnedTimes:
    """A small JSON file; without it, or with one that is no such file, nothing is known."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _read(path)  # by the model's source

    def recall(self, source: str) -> Memory:
        """What a deployment of this source should remember from the beginning."""
        return Memory.load(self._known.get(source, {}))

    def keep(self, source: str, memory: Memory) -> None:
        """Writes the file when the memory has learned something."""
        dumped = memory.dump()
        learned = {
            "cold_start_seconds": memory.cold_start_seconds,
            "phase_seconds": dict(memory.phase_seconds),
            "wakes": dumped["wakes"],
        }
        if dumped["placement"]:
            learned["placement"] = dumped["placement"]
        if not memory.phase_seconds or self._known.get(source) == learned:
            return
        self._known.pop(source, None)
        self._known[source] = learned  # the latest stands last
        self._known = dict(list(self._known.items())[-MODELS:])
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(self._known, indent=1))
        fresh.replace(self._path)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    entries = found.items() if isinstance(found, dict) else ()
    return {source: learned for source, learned in entries if _is_learned(learned)}


def _is_learned(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("phase_seconds"), dict):
        return False
    wakes = value.get("wakes", {})
    if not isinstance(wakes, dict) or not all(map(_are_wakes, wakes.values())):
        return False
    numbers = [value.get("cold_start_seconds"), *value["phase_seconds"].values()]
    return all(isinstance(n, int | float) and 0 <= n < 1e9 for n in numbers)


def _are_wakes(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(wake, list) and all(isinstance(n, int | float) and 0 <= n < 1e9 for n in wake)
        for wake in value
    )

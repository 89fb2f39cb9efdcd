"""Notices that the files of a running `modelfleet up` were edited."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

INTERVAL = 1.0  # seconds between two looks

# Of each file: time of its last change, size and inode; None where there is none.
Fingerprint = tuple[tuple[int, int, int] | None, ...]


def fingerprint(files: Sequence[Path]) -> Fingerprint:
    """Differs once one of them was edited. A pipe, which cannot be read again, never does."""
    return tuple(_of(file) for file in files)


def _of(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)


class Edits:
    """Decides when to read the files again: once they have not changed between two looks.

    So neither a file that is half written is read, nor one that an editor is just replacing.
    """

    def __init__(self, applied: Fingerprint) -> None:
        self._applied = applied
        self._last = applied

    def look(self, seen: Fingerprint) -> bool:
        """Whether to read them now; each edit once."""
        is_steady, self._last = seen == self._last, seen
        if not is_steady or seen == self._applied:
            return False
        self._applied = seen
        return True


async def watch_files(
    files: Sequence[Path], applied: Fingerprint, edited: Callable[[], None]
) -> None:
    """Calls `edited` after each edit, until it is cancelled."""
    edits = Edits(applied)
    while True:
        await asyncio.sleep(INTERVAL)
        if edits.look(fingerprint(files)):
            edited()

"""What files contain: one file each in a folder, written whole before it has its name."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Final

HALF_WRITTEN: Final = 3600.0  # seconds after which an upload of a gateway that is gone is deleted


class Contents:
    """The folders `files` and `incoming` of a store, on one file system."""

    def __init__(self, folder: Path) -> None:
        self._files = folder / "files"
        self._incoming = folder / "incoming"

    def make_folders(self) -> None:
        """Those that are missing."""
        for folder in (self._files, self._incoming):
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, file_id: str) -> Path:
        """Where the content of a file is."""
        return self._files / file_id

    def create(self) -> NewContent:
        """A file to write; it has no name until it is kept."""
        return NewContent(self._incoming / uuid.uuid4().hex)

    def keep(self, new: NewContent, file_id: str) -> None:
        """From here on it outlives a crash of the machine."""
        new.file.flush()
        os.fsync(new.file.fileno())
        new.file.close()
        new.path.rename(self.path(file_id))
        _sync(self._files)

    def delete(self, file_ids: Collection[str]) -> None:
        """Those that are there."""
        for file_id in file_ids:
            self.path(file_id).unlink(missing_ok=True)

    def sweep(self, known: Collection[str]) -> None:
        """Deletes what a gateway left that was killed while it wrote."""
        latest = time.time() - HALF_WRITTEN
        for path in (*self._incoming.iterdir(), *self._files.iterdir()):
            with contextlib.suppress(FileNotFoundError):
                if path.name not in known and path.stat().st_mtime < latest:
                    path.unlink()


class NewContent:
    """A file that is being written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: IO[bytes] = path.open("xb")
        self.size = 0

    def write(self, data: bytes | bytearray) -> None:
        """Behind what was written so far."""
        self.file.write(data)
        self.size += len(data)

    def discard(self) -> None:
        """No-op for one that was kept."""
        with contextlib.suppress(OSError):
            self.file.close()
        self.path.unlink(missing_ok=True)


def read_lines(path: Path, longest: int) -> Iterator[bytes]:
    """With their ends; one that is longer than `longest` bytes comes in parts."""
    with path.open("rb") as file:
        while line := file.readline(longest + 1):
            yield line


def read_part(path: Path, offset: int, length: int) -> bytes:
    """Bytes of a file."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _sync(folder: Path) -> None:
    """Names in it are on the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)

"""One version of one source in the cache: its files on disk, and who may touch them."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ..errors import ModelError


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A folder with a model's files, kept from removal for as long as this value lives."""

    folder: Path
    lock: IO[bytes] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """The place of one version of one source."""

    path: Path

    @property
    def model(self) -> Path:
        """The folder with the model; it exists only when it is whole."""
        return self.path / "model"

    @property
    def partial(self) -> Path:
        """Where its files are gathered."""
        return self.path / "partial"

    def use(self) -> LocalModel | None:
        """The model, if it is there; None also while another process fetches or removes it."""
        try:
            lock = self._lock(fcntl.LOCK_SH)
        except BlockingIOError:
            return None
        if not self.is_whole():
            if lock is not None:
                lock.close()
            return None
        if lock is not None:
            with contextlib.suppress(OSError):  # a read-only cache, or another user's file
                os.utime(lock.fileno())
        return LocalModel(self.model, lock)

    def is_whole(self) -> bool:
        """Whether the model is there with the files that it had when it was fetched."""
        return self.model.is_dir() and self.damage() is None

    def damage_in_use(self) -> str | None:
        """What was done to the model since it was fetched, if other processes use it."""
        try:
            lock = self._lock(fcntl.LOCK_SH)
        except BlockingIOError:
            return None  # it is being fetched
        if lock is not None:
            lock.close()
        return self.damage() if self.model.is_dir() else None

    def damage(self) -> str | None:
        """What was done to the model since it was fetched; None: nothing, by its sizes."""
        with contextlib.suppress(OSError, ValueError):  # of an older version, or unreadable
            for line in (self.path / "files").read_text().splitlines():
                size, name = line.split(" ", 1)
                file = self.model / name
                found = file.stat().st_size if file.is_file() else None
                if found != int(size):
                    return f"{file} has {'no' if found is None else found} bytes of {size}"
        return None

    def repair(self, names: Iterable[str]) -> None:
        """Removes what is not what its name says, and a damaged model; the caller holds it alone.

        `names` are those of the model's files.
        """
        for name in ("size", "progress", "files"):
            remove_unless_file(self.path / name)
        for folder in (self.model, self.partial, self.path / "removed"):
            if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
                folder.unlink()
        if self.model.is_dir():
            self.clear()
        for name in names:
            for parent in list((self.partial / name).relative_to(self.partial).parents)[:-1]:
                if (folder := self.partial / parent).is_file() or folder.is_symlink():
                    folder.unlink()
            remove_unless_file(self.partial / name)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[bool]:
        """False if another process has it. ModelError if no process may write here."""
        try:
            lock = self._lock(fcntl.LOCK_EX)
        except BlockingIOError:
            yield False
            return
        if lock is None:
            raise ModelError(f"the model is not in the cache, and {self.path} cannot be written")
        with lock:
            yield True

    def _lock(self, kind: int) -> IO[bytes] | None:
        """BlockingIOError if another process has it; None in a read-only cache without locks."""
        try:
            handle = os.open(self.path / "lock", os.O_RDONLY | os.O_CREAT, 0o666)
        except IsADirectoryError as error:
            raise ModelError(f"{self.path / 'lock'} is a folder: remove it") from error
        except OSError:
            return None
        lock = os.fdopen(handle, "rb")
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise
        except OSError as error:
            lock.close()
            raise ModelError(
                f"{self.path} is on a file system without locks ({error}): put the cache elsewhere"
            ) from error
        return lock

    def complete(self) -> None:
        """The gathered files become the model, at once and for good."""
        files = [path for path in self.partial.rglob("*") if path.is_file()]
        (self.path / "files").write_text(
            "".join(f"{path.stat().st_size} {path.relative_to(self.partial)}\n" for path in files)
        )
        for path in [*self.partial.rglob("*"), self.partial, self.path / "files"]:
            _sync(path)
        self.partial.rename(self.model)
        _sync(self.path)

    def clear(self) -> None:
        """Frees its disk space; the caller holds it exclusively. Its lock stays: others wait."""
        removed = self.path / "removed"
        shutil.rmtree(removed, ignore_errors=True)  # of a process that was killed here
        if self.model.exists():
            self.model.rename(removed)  # so that a half-removed model never has a model's name
        for folder in (removed, self.partial):
            shutil.rmtree(folder, ignore_errors=True)
        for name in ("size", "progress", "files"):
            (self.path / name).unlink(missing_ok=True)

    @property
    def partial_size(self) -> int:
        """Bytes that are gathered already."""
        return _bytes_under(self.partial)

    @property
    def size(self) -> int:
        """Bytes that it takes, or will take once it is fetched."""
        there = _bytes_under(self.partial) + _bytes_under(self.model)
        return max(int(_read_number(self.path / "size")), there)

    @property
    def last_used(self) -> float:
        """Unix seconds."""
        with contextlib.suppress(OSError):
            return (self.path / "lock").stat().st_mtime
        return 0.0

    def write_progress(self, share: float) -> None:
        """For processes that wait; a half-written number does no harm."""
        (self.path / "progress").write_text(f"{share:.4f}")

    def read_progress(self) -> float:
        """From 0 to 1."""
        return min(_read_number(self.path / "progress"), 1.0)


def remove_unless_file(path: Path) -> None:
    """What was put where a file belongs: a folder, or a link that leads elsewhere."""
    if path.is_symlink():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def _bytes_under(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # removed meanwhile
            total += path.lstat().st_size if path.is_file() else 0
    return total


def _read_number(path: Path) -> float:
    with contextlib.suppress(OSError, ValueError):
        number = float(path.read_text())
        return number if math.isfinite(number) else 0.0
    return 0.0


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

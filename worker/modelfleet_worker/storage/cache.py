"""The cache of fetched models, shared by the worker processes of a machine or node.

ROOT/SOURCE/VERSION/lock       flock: shared while a worker uses the model, exclusive while one
                               fetches or removes it; the kernel releases it when its holder ends
                    progress   bytes that the fetching process has, for those that wait
                    size       bytes it will have
                    partial/   being fetched; if that process ends, another one goes on with it
                    model/     whole: it gets this name by one rename
ROOT/SOURCE/REVISION.version   which version the revision was when the remote last answered
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import structlog

from ..errors import ModelError
from ..progress import Report

log = structlog.get_logger()

_LOOK_AGAIN = 0.2  # seconds between two looks at what another process does


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
        if not self.model.is_dir():
            return None
        if lock is not None:
            with contextlib.suppress(OSError):  # a read-only cache, or another user's file
                os.utime(lock.fileno())
        return LocalModel(self.model, lock)

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
        for path in [*self.partial.rglob("*"), self.partial]:
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
        for name in ("size", "progress"):
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


class Cache:
    """Safe for any number of processes; bounded if it has a limit (bytes)."""

    def __init__(self, root: Path, limit: int | None = None) -> None:
        self._root = root
        self._limit = limit

    def entry(self, source: str, version: str) -> Entry:
        """Raises ModelError where nothing can be written and nothing is there."""
        path = self._folder(source) / version
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if not path.is_dir():
                raise ModelError(f"the model cache {self._root} cannot be used: {error}") from error
        return Entry(path)

    def remember(self, source: str, revision: str, version: str) -> None:
        """Notes the version of a revision, for times when the remote does not answer."""
        note = self._note(source, revision)
        with contextlib.suppress(
            OSError
        ):  # a read-only cache: the process that fills it takes notes
            if not note.exists() or note.read_text() != version:
                new = note.with_name(f"{note.name}.{os.getpid()}")
                new.write_text(version)
                new.replace(note)

    def recall(self, source: str, revision: str) -> LocalModel | None:
        """The version that was noted last, if it is here."""
        with contextlib.suppress(OSError):
            version = self._note(source, revision).read_text()
            return Entry(self._folder(source) / version).use()
        return None

    def get(self, entry: Entry, fetch: Callable[[], None], report: Report) -> LocalModel:
        """The model; one process fetches it, the others wait and report its progress."""
        told = False
        while True:
            found = entry.use()
            if found is not None:
                return found
            with entry.exclusive() as is_ours:
                if is_ours and not entry.model.is_dir():
                    fetch()
            if not is_ours:
                if not told:
                    log.info("another worker fetches the model", folder=str(entry.path))
                    told = True
                report("Download", entry.read_progress())
                time.sleep(_LOOK_AGAIN)

    def make_room(self, entry: Entry, size: int) -> None:
        """For a model of so many bytes. Raises ModelError if there is none.

        With a limit, the models that were not used for longest are removed, those in use never.
        """
        if self._limit is not None:
            with (self._root / "removing").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._keep_limit(entry, size, self._limit)
                (entry.path / "size").write_text(str(size))
        missing = size - entry.partial_size
        if missing > shutil.disk_usage(entry.path).free:
            entry.clear()
            raise ModelError(f"{show_bytes(missing)} to fetch, and {self.full()}")

    def _keep_limit(self, entry: Entry, size: int, limit: int) -> None:
        others = [
            Entry(lock.parent) for lock in self._root.glob("*/*/lock") if lock.parent != entry.path
        ]
        sizes = {other: other.size for other in others}
        for other in sorted(others, key=lambda other: other.last_used):
            if size + sum(sizes.values()) <= limit:
                return
            with other.exclusive() as is_ours:
                if is_ours:
                    log.info("removing a model from the cache", folder=str(other.path))
                    other.clear()
                    sizes[other] = 0
        if size + sum(sizes.values()) > limit:
            raise ModelError(
                f"{show_bytes(size)} to fetch, and the cache's limit (MODELFLEET_CACHE_LIMIT) is "
                f"{show_bytes(limit)}, {show_bytes(sum(sizes.values()))} of it in use: raise it"
            )

    def full(self) -> str:
        """What to say when the disk is full."""
        free = shutil.disk_usage(self._root).free
        return (
            f"the disk is full: {show_bytes(free)} are free at {self._root}: free space there, or "
            "give the cache a bigger volume"
        )

    def _folder(self, source: str) -> Path:
        readable = re.sub(r"[^A-Za-z0-9._-]+", "--", source)[:80]
        return self._root / f"{readable}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"

    def _note(self, source: str, revision: str) -> Path:
        return self._folder(source) / f"{re.sub('[^A-Za-z0-9._-]+', '--', revision)}.version"


def show_bytes(count: int) -> str:
    """For a person: 1.5 GB."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} PB"


def _bytes_under(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # removed meanwhile
            total += path.lstat().st_size if path.is_file() else 0
    return total


def _read_number(path: Path) -> float:
    with contextlib.suppress(OSError, ValueError):
        return float(path.read_text())
    return 0.0


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

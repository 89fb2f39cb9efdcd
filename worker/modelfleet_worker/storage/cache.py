"""The cache of fetched models, shared by the worker processes of a machine or node.

ROOT/SOURCE/VERSION/lock       flock: shared while a worker uses the model, exclusive while one
                               fetches or removes it; the kernel releases it when its holder ends
                    progress   bytes that the fetching process has, for those that wait
                    size       bytes it will have
                    files      size and name of each file of the whole model
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
from collections.abc import Callable
from pathlib import Path

import structlog

from ..errors import ModelError
from ..progress import Report
from .entry import Entry, LocalModel
from .names import safe_version

log = structlog.get_logger()

_LOOK_AGAIN = 0.2  # seconds between two looks at what another process does


class Cache:
    """Safe for any number of processes; bounded if it has a limit (bytes)."""

    def __init__(self, root: Path, limit: int | None = None) -> None:
        self._root = root
        self._limit = limit

    def entry(self, source: str, version: str) -> Entry:
        """Raises ModelError where nothing can be written and nothing is there."""
        path = self._folder(source) / safe_version(version)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if not path.is_dir():
                raise ModelError(f"the model cache {self._root} cannot be used: {error}") from error
        return Entry(path)

    def remember(self, source: str, revision: str, version: str) -> None:
        """Notes the version of a revision, for times when the remote does not answer."""
        note = self._note(source, revision)
        # In a read-only cache, the process that fills it takes notes.
        with contextlib.suppress(OSError):
            if not note.exists() or note.read_bytes() != version.encode():
                new = note.with_name(f"{note.name}.{os.getpid()}")
                new.write_text(version)
                new.replace(note)

    def recall(self, source: str, revision: str) -> LocalModel | None:
        """The version that was noted last, if it is here."""
        with contextlib.suppress(OSError, ValueError, ModelError):  # none, or broken by hand
            version = safe_version(self._note(source, revision).read_text())
            return Entry(self._folder(source) / version).use()
        return None

    def get(self, entry: Entry, fetch: Callable[[], None], report: Report) -> LocalModel:
        """The model; one process fetches it, the others wait and report its progress."""
        told = was_damaged = False
        while True:
            found = entry.use()
            if found is not None:
                return found
            with entry.exclusive() as is_ours:
                if is_ours and not entry.is_whole():
                    fetch()
            if not is_ours:
                if not told:
                    log.info("another worker fetches the model", folder=str(entry.path))
                    told = True
                damage = entry.damage_in_use()
                if damage is not None and was_damaged:  # twice: others may look at the same time
                    raise ModelError(
                        f"{damage}, and another worker uses that model: once none does, it is "
                        "fetched again"
                    )
                was_damaged = damage is not None
                report("Download", entry.read_progress())
                time.sleep(_LOOK_AGAIN)

    def make_room(self, entry: Entry, size: int, *, beside: int = 0) -> None:
        """For a model of so many bytes. Raises ModelError if there is none.

        With a limit, the models that were not used for longest are removed, those in use never.
        `beside` are bytes that it takes only until it is whole.
        """
        if self._limit is not None:
            with (self._root / "removing").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._keep_limit(entry, size, self._limit)
                (entry.path / "size").write_text(str(size))
        missing = size + beside - entry.partial_size
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

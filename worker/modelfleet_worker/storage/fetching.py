"""Fetches a model into the cache, several files at once, or finds it there."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import structlog

from ..errors import ModelError, UnreachableError
from ..progress import Report
from .cache import Cache
from .contents import CONFIG, refuse_other_weights
from .entry import Entry, LocalModel
from .remote import Listing, Remote, RemoteFile

log = structlog.get_logger()

_CONNECTIONS = 8
_WRITE_EVERY = 0.2  # seconds between two notes of the progress


def fetch_model(remote: Remote, cache: Cache, report: Report) -> LocalModel:
    """The model's files on this machine. Raises ModelError, and what `report` raises.

    A server that does not answer is an error only if no version was fetched before.
    """
    try:
        return _find_or_fetch(remote, cache, report)
    except UnreachableError as error:
        copy = remote.copy_of(None)
        found = LocalModel(copy) if copy else cache.recall(remote.source, remote.revision)
        if found is None:
            raise ModelError(f"{remote.where}: {error}") from error
        log.warning("using the copy in the cache", source=remote.source, because=str(error))
        return found
    except ModelError as error:
        raise ModelError(f"{remote.where}: {error}") from error


def _find_or_fetch(remote: Remote, cache: Cache, report: Report) -> LocalModel:
    listing = remote.list()
    copy = remote.copy_of(listing)
    if copy is not None:
        return LocalModel(copy)
    entry = cache.entry(remote.source, listing.version)
    found = cache.get(entry, lambda: _fetch(remote, listing, cache, entry, report), report)
    cache.remember(remote.source, remote.revision, listing.version)
    return found


def _fetch(remote: Remote, listing: Listing, cache: Cache, entry: Entry, report: Report) -> None:
    log.info("fetching", source=remote.source, version=listing.version[:12], bytes=listing.size)
    try:
        entry.repair(file.name for file in listing.files)
        entry.partial.mkdir(exist_ok=True)
        meter = _Meter(listing.size, entry, report)
        meter.moved(0)
        cache.make_room(entry, listing.size, beside=listing.packed_size)
        _fetch_all(remote, listing, entry, meter)
        try:
            remote.finish(entry.partial)
            # What is there now may be more: compressed archives do not say what they hold.
            cache.make_room(entry, entry.partial_size)
        except ModelError:
            entry.clear()  # what was fetched is whole, and is no model: going on would not help
            raise
        entry.complete()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(f"cannot be written to the cache: {error}") from error
        entry.clear()  # half a model is of no use, and other models may need the room
        raise ModelError(cache.full()) from error
    report("Download", 1.0)


def _fetch_all(remote: Remote, listing: Listing, entry: Entry, meter: _Meter) -> None:
    """What can tell that this is no model for us comes first, and alone."""
    config = [file for file in listing.files if file.name == CONFIG]
    _fetch_some(remote, config, entry, meter)
    refuse_other_weights("it", entry.partial / CONFIG)
    _fetch_some(remote, [file for file in listing.files if file.name != CONFIG], entry, meter)


def _fetch_some(remote: Remote, files: Sequence[RemoteFile], entry: Entry, meter: _Meter) -> None:
    with ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="download") as pool:
        futures = [pool.submit(remote.fetch, file, entry.partial, meter.moved) for file in files]
        _, unfinished = wait(futures, return_when=FIRST_EXCEPTION)
        if unfinished:
            meter.stop()  # no thread may write any more once another process can take over
        pool.shutdown(wait=True, cancel_futures=True)
    errors = [future.exception() for future in futures if not future.cancelled()]
    for error in sorted(filter(None, errors), key=lambda error: isinstance(error, _StoppedError)):
        raise error


class _StoppedError(Exception):
    """Another file failed, or the load was given up."""


class _Meter:
    """Sums the bytes of all files; what it raises stops their downloads."""

    def __init__(self, total: int, entry: Entry, report: Report) -> None:
        self._total = max(total, 1)
        self._entry = entry
        self._report = report
        self._lock = threading.Lock()
        # What an earlier process left is there at once; reading it again is no progress.
        self._before = entry.partial_size
        self._done = 0
        self._noted = 0.0
        self._stopped = False

    def moved(self, count: int) -> None:
        if self._stopped:
            raise _StoppedError
        with self._lock:  # so that the reported shares never fall
            self._done += count
            share = min(max(self._done, self._before) / self._total, 1.0)
            now = time.monotonic()
            if now - self._noted >= _WRITE_EVERY:
                self._noted = now
                self._entry.write_progress(share)
            self._report("Download", share)

    def stop(self) -> None:
        self._stopped = True

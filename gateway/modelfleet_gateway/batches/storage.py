"""The store as the event loop calls it: in threads, with errors that clients understand."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import structlog

from ..errors import GatewayError, StoreFullError, StoreUnavailableError
from ..options import BatchLimits
from .batch_table import BatchTable
from .contents import Contents
from .file_table import FileTable
from .schema import connect

DATABASE: Final = "batches.sqlite3"
RETRY_AFTER: Final = 10.0  # seconds
PAUSE: Final = 2.0  # seconds before a store that fails is asked again
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

Result = TypeVar("Result")

log = structlog.get_logger()


class Tables:
    """The tables, over one connection."""

    def __init__(self, connection: sqlite3.Connection, limits: BatchLimits) -> None:
        self.connection = connection
        self.files = FileTable(connection, limits)
        self.batches = BatchTable(connection, limits)


class Storage:
    """Opens the store when it is first needed, and again after it was gone."""

    def __init__(self, folder: Path, limits: BatchLimits) -> None:
        self.folder = folder
        self.limits = limits
        self.contents = Contents(folder)
        self._tables: Tables | None = None
        self._was_open = False
        self._inode = 0  # of the database that is open
        # One thread: a connection serves one call after the other.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")

    async def is_made(self) -> bool:
        """Whether anything was ever stored: the first call of `call` makes the store."""
        return await self.disk((self.folder / DATABASE).exists)

    async def call(self, work: Callable[[Tables], Result]) -> Result:
        """What it returns, given the tables. StoreFullError, StoreUnavailableError."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._run, work)

    async def wait_for(self, work: Callable[[Tables], Result]) -> Result:
        """As `call`, once the store works."""
        return await patiently(lambda: self.call(work))

    async def beside(self, work: Callable[[Tables], Result]) -> Result:
        """As `call`, over a connection of its own: for what takes longer than a moment."""

        def run() -> Result:
            with store_errors(self.folder):
                connection = connect(self._existing())
                try:
                    return work(Tables(connection, self.limits))
                finally:
                    connection.close()

        return await asyncio.to_thread(run)

    async def disk(self, work: Callable[[], Result]) -> Result:
        """As `call`, for work on contents only, and beside it."""

        def run() -> Result:
            with store_errors(self.folder):
                return work()

        return await asyncio.to_thread(run)

    def close(self) -> None:
        """Waits for what runs."""
        self._thread.shutdown()
        if self._tables is not None:
            with contextlib.suppress(sqlite3.Error):
                self._tables.connection.close()

    def _run(self, work: Callable[[Tables], Result]) -> Result:
        with store_errors(self.folder):
            if self._tables is None:
                self._tables = self._open()
            try:
                self._check_in_place()
                return work(self._tables)
            except (sqlite3.Error, OSError):
                # The file may have been replaced: the next call opens what is there then.
                tables, self._tables = self._tables, None
                with contextlib.suppress(sqlite3.Error):
                    tables.connection.close()
                raise

    def _open(self) -> Tables:
        database = self.folder / DATABASE
        if self._was_open:
            self._existing()
        else:
            self.contents.make_folders()
        tables = Tables(connect(database), self.limits)
        self._was_open, self._inode = True, database.stat().st_ino
        return tables

    def _check_in_place(self) -> None:
        """SQLite would go on writing into a file that was deleted."""
        if self._existing().stat().st_ino != self._inode:
            raise FileNotFoundError(errno.ENOENT, "the store was replaced", str(self.folder))

    def _existing(self) -> Path:
        """Not made anew: a volume that is away for a while would come back as a second store."""
        database = self.folder / DATABASE
        if not database.exists():
            raise FileNotFoundError(errno.ENOENT, "the store is gone", str(database))
        return database


async def patiently(work: Callable[[], Awaitable[Result]]) -> Result:
    """What it returns, once the store works; each failure is logged where it happens."""
    while True:
        try:
            return await work()
        except (StoreFullError, StoreUnavailableError):
            await asyncio.sleep(PAUSE)


@contextlib.contextmanager
def store_errors(folder: Path) -> Iterator[None]:
    """Errors of the disk and of SQLite become ours."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        log.warning("the store of batches fails", folder=str(folder), error=repr(error))
        raise translated(error) from error


def translated(error: sqlite3.Error | OSError) -> GatewayError:
    """StoreFullError when there is no room, else StoreUnavailableError."""
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_FULL or getattr(error, "errno", None) in FULL:
        return StoreFullError("The disk of files and batches is full.")
    return StoreUnavailableError(
        "The store of files and batches cannot be used now: the gateway's log says why.",
        retry_after=RETRY_AFTER,
    )

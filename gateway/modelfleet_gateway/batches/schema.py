"""The tables of the store, and one connection to them."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

VERSION: Final = 1  # of the tables; one of a later gateway is refused
BUSY: Final = 10.0  # seconds to wait for another process's transaction

TABLES: Final = """
CREATE TABLE files (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    purpose TEXT NOT NULL,
    filename TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER
);
CREATE INDEX files_by_owner ON files (owner, number);
CREATE TABLE batches (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    status TEXT NOT NULL,
    input_file_id TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    is_final INTEGER NOT NULL DEFAULT 0,
    holder TEXT NOT NULL DEFAULT '',    -- the gateway that runs it
    lease_until REAL NOT NULL DEFAULT 0,
    fence INTEGER NOT NULL DEFAULT 0,   -- grows with each lease: a write with an old one is refused
    total INTEGER NOT NULL DEFAULT 0,
    completed INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    rest TEXT NOT NULL                  -- JSON of all else that a Batch has
);
CREATE INDEX batches_by_owner ON batches (owner, number);
CREATE INDEX batches_to_run ON batches (is_final, expires_at);
CREATE TABLE lines (
    batch TEXT NOT NULL,
    number INTEGER NOT NULL,
    custom_id TEXT NOT NULL,
    offset INTEGER NOT NULL,            -- in the input file
    length INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    succeeded INTEGER,                  -- NULL: it has no result yet
    result BLOB,                        -- its line of the output or error file
    PRIMARY KEY (batch, number)
);
CREATE INDEX lines_to_run ON lines (batch, number) WHERE succeeded IS NULL;
"""


def connect(path: Path) -> sqlite3.Connection:
    """A connection for one thread at a time, whose commits are on the disk when they return."""
    connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before anything is written
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        with transaction(connection):
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in TABLES.split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {VERSION}")
        if version > VERSION:
            raise sqlite3.DatabaseError(
                f"{path} is of a later version of Modelfleet ({version}, expected {VERSION})"
            )
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; no other process writes meanwhile."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # it may have ended by itself
            connection.execute("ROLLBACK")
        raise

"""The files of the store: their rows. What they contain lies beside it, in `files/ID`."""

from __future__ import annotations

import sqlite3
from typing import Final

from ..errors import FileInUseError, StoreFullError, TooManyFilesError, UnknownFileError, quoted
from ..options import BatchLimits
from .objects import BATCH_OUTPUT, StoredFile
from .schema import transaction

COLUMNS: Final = "id, owner, purpose, filename, bytes, created_at, expires_at"
OLDER: Final = " AND number < (SELECT number FROM files WHERE id = ? AND owner = ?)"
NEWER: Final = " AND number > (SELECT number FROM files WHERE id = ? AND owner = ?)"


class FileTable:
    """Each method is one transaction."""

    def __init__(self, connection: sqlite3.Connection, limits: BatchLimits) -> None:
        self._db = connection
        self._limits = limits

    def check_room(self, owner: str, size: int) -> None:
        """StoreFullError, TooManyFilesError: a file of this size would be refused now."""
        (count,) = self._db.execute(
            "SELECT count(*) FROM files WHERE owner = ? AND purpose != ?", (owner, BATCH_OUTPUT)
        ).fetchone()
        if count >= self._limits.files_per_key:
            raise TooManyFilesError(
                f"There are {count} files, the most that one key may have. Delete some."
            )
        used, most = self.used_bytes(), self._limits.store_bytes
        if used + size > most:
            raise StoreFullError(
                f"The store of files holds {used} of at most {most} bytes, and {size} more are too "
                "many. Delete files, or try again when some have expired."
            )

    def add(self, file: StoredFile) -> None:
        """Its content must lie on the disk by now. Raises what `check_room` does."""
        with transaction(self._db):
            self.check_room(file.owner, file.bytes)
            insert(self._db, file)

    def get(self, file_id: str, owner: str) -> StoredFile:
        """UnknownFileError: there is none, or it is another's."""
        row = self._db.execute(
            f"SELECT {COLUMNS} FROM files WHERE id = ? AND owner = ?",  # noqa: S608 - a constant
            (file_id, owner),
        ).fetchone()
        if row is None:
            raise unknown_file(file_id)
        return StoredFile(**row)

    def page(
        self, owner: str, *, purpose: str | None, after: str | None, limit: int, newest_first: bool
    ) -> tuple[list[StoredFile], bool]:
        """Those after the one of id `after`, and whether there are more."""
        where, values = "owner = ?", [owner]
        if purpose is not None:
            where, values = where + " AND purpose = ?", [*values, purpose]
        if after is not None:
            where += OLDER if newest_first else NEWER
            values += [self.get(after, owner).id, owner]
        order = "DESC" if newest_first else "ASC"
        rows = self._db.execute(
            f"SELECT {COLUMNS} FROM files WHERE {where} ORDER BY number {order} LIMIT ?",  # noqa: S608 - constants
            (*values, limit + 1),
        ).fetchall()
        return [StoredFile(**row) for row in rows[:limit]], len(rows) > limit

    def delete(self, file_id: str, owner: str) -> None:
        """FileInUseError: a batch that has not ended reads it."""
        with transaction(self._db):
            self.get(file_id, owner)
            row = self._db.execute(
                "SELECT id FROM batches WHERE input_file_id = ? AND NOT is_final", (file_id,)
            ).fetchone()
            if row is not None:
                raise FileInUseError(
                    f"The batch {row['id']} reads this file. Cancel it, or wait for its end."
                )
            self._db.execute("DELETE FROM files WHERE id = ?", (file_id,))

    def expire(self, now: float) -> list[str]:
        """Deletes those whose time is over, but for those that batches still read."""
        with transaction(self._db):
            rows = self._db.execute(
                "DELETE FROM files WHERE expires_at <= ? AND id NOT IN "
                "(SELECT input_file_id FROM batches WHERE NOT is_final) RETURNING id",
                (now,),
            ).fetchall()
        return [row["id"] for row in rows]

    def ids(self) -> set[str]:
        """All of them."""
        return {row["id"] for row in self._db.execute("SELECT id FROM files")}

    def used_bytes(self) -> int:
        """Of all files, and of the results that wait to become files."""
        (files,) = self._db.execute("SELECT coalesce(sum(bytes), 0) FROM files").fetchone()
        pages, unused, size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int(files + (pages - unused) * size)


def insert(db: sqlite3.Connection, file: StoredFile) -> None:
    """A row."""
    db.execute(
        f"INSERT INTO files ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - a constant
        (
            file.id,
            file.owner,
            file.purpose,
            file.filename,
            file.bytes,
            file.created_at,
            file.expires_at,
        ),
    )


def unknown_file(file_id: str) -> UnknownFileError:
    """The same for one that never was and one of another key."""
    return UnknownFileError(f"No such File object: {quoted(file_id)}", param="id")

"""The batches of the store, their leases and their lines."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from ..errors import BatchEndedError, TooManyBatchesError, UnknownBatchError, quoted
from ..openai_api.answer import Json
from ..options import BatchLimits
from .file_table import FileTable, insert
from .objects import FINAL, Batch, Line, Result, Status, StoredFile
from .schema import transaction

# What a Batch has in columns of its own.
COLUMNS: Final = (
    *("id", "owner", "status", "input_file_id", "expires_at"),
    *("total", "completed", "failed", "reason"),
)
RETRY_AFTER: Final = 60.0  # seconds
OUTCOME_TIMES: Final = {
    Status.COMPLETED: "completed_at",
    Status.EXPIRED: "expired_at",
    Status.CANCELLED: "cancelled_at",
}


class LeaseLostError(Exception):
    """Another gateway runs the batch now; what was to be written is not."""


@dataclasses.dataclass(frozen=True, slots=True)
class Leased:
    """A batch that a gateway runs, and the fence that its writes carry."""

    batch: Batch
    fence: int


class BatchTable:
    """Each method is one transaction. Times are seconds since the epoch."""

    def __init__(self, connection: sqlite3.Connection, limits: BatchLimits) -> None:
        self._db = connection
        self._limits = limits
        self._files = FileTable(connection, limits)

    # What clients ask for.

    def add(self, batch: Batch) -> None:
        """UnknownFileError, TooManyBatchesError."""
        with transaction(self._db):
            self._files.get(batch.input_file_id, batch.owner)
            (count,) = self._db.execute(
                "SELECT count(*) FROM batches WHERE owner = ? AND NOT is_final", (batch.owner,)
            ).fetchone()
            if count >= self._limits.batches_per_key:
                raise TooManyBatchesError(
                    f"{count} batches have not ended, the most that one key may have.",
                    retry_after=RETRY_AFTER,
                )
            names = ", ".join(COLUMNS)
            self._db.execute(
                f"INSERT INTO batches ({names}, rest) VALUES ({'?, ' * len(COLUMNS)}?)",  # noqa: S608 - constants
                (*(getattr(batch, name) for name in COLUMNS), _rest(batch)),
            )

    def get(self, batch_id: str, owner: str) -> Batch:
        """UnknownBatchError: there is none, or it is another's."""
        row = self._db.execute(
            "SELECT * FROM batches WHERE id = ? AND owner = ?", (batch_id, owner)
        ).fetchone()
        if row is None:
            raise UnknownBatchError(f"No such Batch object: {quoted(batch_id)}", param="id")
        return _batch(row)

    def page(self, owner: str, *, after: str | None, limit: int) -> tuple[list[Batch], bool]:
        """The newest first, from the one after `after`; and whether there are more."""
        where, values = "owner = ?", [owner]
        if after is not None:
            where += " AND number < (SELECT number FROM batches WHERE id = ? AND owner = ?)"
            values += [self.get(after, owner).id, owner]
        rows = self._db.execute(
            f"SELECT * FROM batches WHERE {where} ORDER BY number DESC LIMIT ?",  # noqa: S608 - constants
            (*values, limit + 1),
        ).fetchall()
        return [_batch(row) for row in rows[:limit]], len(rows) > limit

    def cancel(self, batch_id: str, owner: str, now: int) -> Batch:
        """Whoever runs it sees it, and writes what is done so far. BatchEndedError."""
        with transaction(self._db):
            batch = self.get(batch_id, owner)
            if batch.status.is_final:
                raise BatchEndedError(f"Cannot cancel a batch with status {batch.status.value!r}.")
            if batch.outcome is None:
                batch = dataclasses.replace(
                    batch,
                    status=Status.CANCELLING,
                    cancelling_at=now,
                    outcome=Status.CANCELLED,
                    reason="",
                )
                self._save(batch)
        return batch

    def forget_ended(self, before: float) -> None:
        """Deletes batches that ended long ago."""
        with transaction(self._db):
            self._db.execute("DELETE FROM batches WHERE is_final AND expires_at < ?", (before,))

    # Leases.

    def lease(self, holder: str, now: float, until: float, most: int) -> list[Leased]:
        """Takes batches that nobody runs, at most so many; those that expire first go first."""
        with transaction(self._db):
            rows = self._db.execute(
                "UPDATE batches SET holder = ?, lease_until = ?, fence = fence + 1 WHERE id IN "
                "(SELECT id FROM batches WHERE NOT is_final AND lease_until <= ?"
                " ORDER BY expires_at LIMIT ?) RETURNING *",
                (holder, until, now, most),
            ).fetchall()
        return [Leased(_batch(row), row["fence"]) for row in rows]

    def renew(self, holder: str, until: float) -> list[Leased]:
        """All that it still holds, as they are now."""
        with transaction(self._db):
            rows = self._db.execute(
                "UPDATE batches SET lease_until = ? WHERE holder = ? AND NOT is_final RETURNING *",
                (until, holder),
            ).fetchall()
        return [Leased(_batch(row), row["fence"]) for row in rows]

    def release_all(self, holder: str) -> None:
        """Others may take what it held at once."""
        with transaction(self._db):
            self._db.execute(
                "UPDATE batches SET holder = '', lease_until = 0 WHERE holder = ?", (holder,)
            )

    # What its holder writes; LeaseLostError when it is that no more.

    def refuse(self, batch_id: str, fence: int, errors: Iterable[Json], now: int) -> Batch:
        """Its input file is wrong."""
        with transaction(self._db):
            batch = self._held(batch_id, fence)
            if batch.outcome is not None:
                return batch
            batch = dataclasses.replace(
                batch, status=Status.FAILED, failed_at=now, errors=tuple(errors)
            )
            self._save(batch)
        return batch

    def begin(
        self, batch_id: str, fence: int, lines: Sequence[Line], model: str | None, now: int
    ) -> Batch:
        """Its lines are to be run from now on."""
        with transaction(self._db):
            batch = self._held(batch_id, fence)
            if batch.outcome is not None:
                return batch
            self._db.executemany(
                "INSERT INTO lines (batch, number, custom_id, offset, length) VALUES (?,?,?,?,?)",
                ((batch_id, x.number, x.custom_id, x.offset, x.length) for x in lines),
            )
            batch = dataclasses.replace(
                batch,
                status=Status.IN_PROGRESS,
                in_progress_at=now,
                model=model,
                total=len(lines),
            )
            self._save(batch)
        return batch

    def waiting_lines(self, batch_id: str, after: int, most: int) -> list[Line]:
        """Those without a result whose number is larger than `after`."""
        rows = self._db.execute(
            "SELECT number, custom_id, offset, length, attempts FROM lines"
            " WHERE batch = ? AND number > ? AND succeeded IS NULL ORDER BY number LIMIT ?",
            (batch_id, after, most),
        )
        return [Line(**row) for row in rows]

    def count_attempt(self, batch_id: str, fence: int, number: int) -> None:
        """The line failed for a reason that may pass."""
        with transaction(self._db):
            self._held(batch_id, fence)
            self._db.execute(
                "UPDATE lines SET attempts = attempts + 1 WHERE batch = ? AND number = ?",
                (batch_id, number),
            )

    def set_reason(self, batch_id: str, fence: int, reason: str) -> None:
        """Why it waits, or what it does."""
        with transaction(self._db):
            self._held(batch_id, fence)
            self._db.execute("UPDATE batches SET reason = ? WHERE id = ?", (reason, batch_id))

    def write(self, results: Sequence[Result]) -> set[str]:
        """All that are not of an old lease, each once; returns the batches whose lease is lost."""
        lost: set[str] = set()
        with transaction(self._db):
            for result in results:
                held = self._db.execute(
                    "SELECT 1 FROM batches WHERE id = ? AND fence = ? AND NOT is_final",
                    (result.batch, result.fence),
                ).fetchone()
                if held is None:
                    lost.add(result.batch)
                    continue
                changed = self._db.execute(
                    "UPDATE lines SET succeeded = ?, result = ?"
                    " WHERE batch = ? AND number = ? AND succeeded IS NULL",
                    (result.succeeded, result.line, result.batch, result.number),
                ).rowcount
                self._db.execute(
                    "UPDATE batches SET completed = completed + ?, failed = failed + ?"
                    " WHERE id = ?",
                    (
                        changed * result.succeeded,
                        changed * (not result.succeeded),
                        result.batch,
                    ),
                )
        return lost

    def finalize(self, batch_id: str, fence: int, outcome: Status, now: int) -> Batch:
        """No more lines are run. A batch that is cancelled stays so."""
        with transaction(self._db):
            batch = self._held(batch_id, fence)
            if batch.outcome is None:
                batch = dataclasses.replace(batch, status=Status.FINALIZING, outcome=outcome)
            if batch.finalizing_at is None:
                batch = dataclasses.replace(batch, finalizing_at=now, reason="")
                self._save(batch)
        return batch

    def results(self, batch_id: str) -> Iterator[tuple[Line, bool | None, bytes | None]]:
        """All lines in order; whether each succeeded, and its result. None: it was not run."""
        rows = self._db.execute(
            "SELECT number, custom_id, offset, length, attempts, succeeded, result FROM lines"
            " WHERE batch = ? ORDER BY number",
            (batch_id,),
        )
        for *line, succeeded, result in rows:
            number, custom_id, offset, length, attempts = line
            yield (
                Line(
                    number=number,
                    custom_id=custom_id,
                    offset=offset,
                    length=length,
                    attempts=attempts,
                ),
                None if succeeded is None else bool(succeeded),
                result,
            )

    def finish(
        self,
        batch_id: str,
        fence: int,
        *,
        output: StoredFile | None,
        errors: StoredFile | None,
        now: int,
    ) -> Batch:
        """Its files lie on the disk: what was not run counts as failed, and all is over."""
        with transaction(self._db):
            batch = self._held(batch_id, fence)
            outcome = batch.outcome or Status.COMPLETED
            for file in (output, errors):
                if file is not None:
                    insert(self._db, file)
            changes: dict[str, Any] = {OUTCOME_TIMES[outcome]: now}
            batch = dataclasses.replace(
                batch,
                status=outcome,
                output_file_id=output.id if output is not None else None,
                error_file_id=errors.id if errors is not None else None,
                failed=batch.total - batch.completed,
                **changes,
            )
            self._save(batch)
            self._db.execute("DELETE FROM lines WHERE batch = ?", (batch_id,))
        self._db.execute("PRAGMA incremental_vacuum").fetchall()
        return batch

    def _held(self, batch_id: str, fence: int) -> Batch:
        row = self._db.execute(
            "SELECT * FROM batches WHERE id = ? AND fence = ? AND NOT is_final", (batch_id, fence)
        ).fetchone()
        if row is None:
            raise LeaseLostError(batch_id)
        return _batch(row)

    def _save(self, batch: Batch) -> None:
        changes = ", ".join(f"{name} = ?" for name in COLUMNS)
        self._db.execute(
            f"UPDATE batches SET {changes}, is_final = ?, rest = ? WHERE id = ?",  # noqa: S608 - constants
            (
                *(getattr(batch, name) for name in COLUMNS),
                batch.status in FINAL,
                _rest(batch),
                batch.id,
            ),
        )


def _rest(batch: Batch) -> str:
    fields = dataclasses.asdict(batch)
    return json.dumps({name: fields[name] for name in fields.keys() - set(COLUMNS)})


def _batch(row: sqlite3.Row) -> Batch:
    rest = json.loads(row["rest"])
    known = {field.name for field in dataclasses.fields(Batch)}
    fields = {name: value for name, value in rest.items() if name in known}
    fields |= {name: row[name] for name in COLUMNS}
    fields["status"] = Status(row["status"])
    fields["outcome"] = Status(rest["outcome"]) if rest.get("outcome") else None
    fields["errors"] = tuple(rest.get("errors", ()))
    return Batch(**fields)

"""The files that a batch leaves: its output, and its errors."""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass
from typing import Final

from .contents import Contents, NewContent
from .lines import not_run
from .objects import BATCH_OUTPUT, Batch, Status, StoredFile
from .storage import Tables

PIECE: Final = 256 * 1024  # bytes that are written at once
NOT_RUN: Final = {
    Status.EXPIRED: (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    Status.CANCELLED: (
        "batch_cancelled",
        "This request was not executed: the batch was cancelled before.",
    ),
}


@dataclass(frozen=True, slots=True)
class Written:
    """Both files, which lie on the disk; None for one that would be empty."""

    output: StoredFile | None
    errors: StoredFile | None

    @property
    def ids(self) -> list[str]:
        """Of those that there are."""
        return [file.id for file in (self.output, self.errors) if file is not None]


def write_files(
    tables: Tables, contents: Contents, batch: Batch, *, now: int, seconds: int
) -> Written:
    """Writes the results of all lines, in their order, and an error for each that was not run."""
    output, errors = contents.create(), contents.create()
    try:
        code, message = NOT_RUN.get(batch.outcome or Status.COMPLETED, ("", ""))
        for line, succeeded, result in tables.batches.results(batch.id):
            if succeeded is None or result is None:
                text = not_run(batch.id, line.number, line.custom_id, code=code, message=message)
                errors.write(text)
            else:
                (output if succeeded else errors).write(result)
        expires_at = now + (batch.output_seconds or seconds)
        with contextlib.ExitStack() as undo:
            kept: list[StoredFile | None] = []
            for new, kind in ((output, "output"), (errors, "error")):
                file = _keep(contents, new, batch, kind, now, expires_at)
                if file is not None:
                    undo.callback(contents.delete, [file.id])
                kept.append(file)
            undo.pop_all()
        return Written(*kept)
    finally:
        output.discard()
        errors.discard()


def _keep(
    contents: Contents, new: NewContent, batch: Batch, kind: str, now: int, expires_at: int
) -> StoredFile | None:
    if not new.size:
        return None
    file_id = f"file-{uuid.uuid4().hex}"
    contents.keep(new, file_id)
    return StoredFile(
        id=file_id,
        owner=batch.owner,
        filename=f"{batch.id}_{kind}.jsonl",
        purpose=BATCH_OUTPUT,
        bytes=new.size,
        created_at=now,
        expires_at=expires_at,
    )

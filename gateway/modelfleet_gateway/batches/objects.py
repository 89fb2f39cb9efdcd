"""Files and batches, as they are stored and as OpenAI's clients see them."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Final

from ..openai_api.answer import Json

ENDPOINTS: Final = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
)
BATCH: Final = "batch"  # the purpose of input files
BATCH_OUTPUT: Final = "batch_output"
# As OpenAI's client names them; `batch_output` is ours alone.
PURPOSES: Final = (BATCH, "assistants", "fine-tune", "vision", "user_data", "evals")


class Status(enum.StrEnum):
    """Of a batch, in the order in which it passes them."""

    VALIDATING = "validating"
    FAILED = "failed"  # its input file is wrong: nothing was run
    IN_PROGRESS = "in_progress"
    CANCELLING = "cancelling"
    FINALIZING = "finalizing"  # its files are written
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Nothing more happens to it."""
        return self in FINAL


FINAL: Final = frozenset({Status.FAILED, Status.COMPLETED, Status.EXPIRED, Status.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file of the store; times in seconds since the epoch."""

    id: str
    owner: str  # the key's tenant; empty: whoever asks
    filename: str
    purpose: str
    bytes: int
    created_at: int
    expires_at: int | None = None

    def body(self) -> Json:
        """OpenAI's `file`."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch; times in seconds since the epoch, None: not yet."""

    id: str
    owner: str
    key_id: str = ""  # of the key whose requests its lines are
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    output_seconds: int | None = None  # that its files are kept; None: as long as others
    status: Status = Status.VALIDATING
    model: str | None = None  # as its lines name it, once they are read
    errors: tuple[Json, ...] = ()  # of its input file
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    outcome: Status | None = None  # what it becomes when its files are written
    reason: str = ""  # why it waits, or wakes its model
    total: int = 0
    completed: int = 0
    failed: int = 0

    @property
    def waiting(self) -> int:
        """Lines that have no result yet."""
        return self.total - self.completed - self.failed

    def body(self) -> Json:
        """OpenAI's `batch`, with `status_reason` beside it."""
        errors = {"object": "list", "data": list(self.errors)} if self.errors else None
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model,
            "errors": errors,
            "input_file_id": self.input_file_id,
            "completion_window": self.completion_window,
            "status": self.status.value,
            "status_reason": self.reason or None,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": self.created_at,
            "in_progress_at": self.in_progress_at,
            "expires_at": self.expires_at,
            "finalizing_at": self.finalizing_at,
            "completed_at": self.completed_at,
            "failed_at": self.failed_at,
            "expired_at": self.expired_at,
            "cancelling_at": self.cancelling_at,
            "cancelled_at": self.cancelled_at,
            "request_counts": {
                "total": self.total,
                "completed": self.completed,
                "failed": self.failed,
            },
            "metadata": self.metadata or None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One request of a batch, and where it is in the input file."""

    number: int  # from 0
    custom_id: str
    offset: int
    length: int
    attempts: int = 0  # that failed for a reason that may pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a line: its line of the output file, or of the error file."""

    batch: str
    fence: int  # of the lease under which it ran
    number: int
    succeeded: bool
    line: bytes


def page(bodies: list[Json], *, has_more: bool) -> dict[str, Any]:
    """OpenAI's list."""
    return {
        "object": "list",
        "data": bodies,
        "first_id": bodies[0]["id"] if bodies else None,
        "last_id": bodies[-1]["id"] if bodies else None,
        "has_more": has_more,
    }

"""What clients send about files and batches."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Final, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from ..errors import InvalidRequestError, quoted
from ..openai_api.bulk import Bulk
from ..openai_api.checks import explain
from .objects import BATCH, ENDPOINTS, PURPOSES, Batch, StoredFile
from .window import LONGEST, SHORTEST, read_window

LEAST_SECONDS: Final = 3600  # as OpenAI
MOST_SECONDS: Final = 30 * 86_400
STRICT: Final = ConfigDict(strict=True, extra="ignore")

Key = Annotated[str, Field(min_length=1, max_length=64)]
Text = Annotated[str, Field(max_length=512)]


class ExpiresAfter(BaseModel):
    """When a file's time is over."""

    model_config = STRICT

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=LEAST_SECONDS, le=MOST_SECONDS)]


class BatchRequest(BaseModel):
    """The body of `POST /v1/batches`."""

    model_config = STRICT

    input_file_id: Annotated[str, Field(min_length=1, max_length=128)]
    endpoint: str
    completion_window: str
    metadata: Annotated[dict[Key, Text], Field(max_length=16)] | None = None
    output_expires_after: ExpiresAfter | None = None


def read_batch(body: bytearray, created: float, bulk: Bulk | None = None) -> Batch:
    """A batch that nobody owns yet; InvalidRequestError names the field and what was expected."""
    if bulk is not None:
        raise InvalidRequestError("The body is larger than that of any batch.")
    try:
        asked = BatchRequest.model_validate_json(body)
    except pydantic.ValidationError as error:
        raise explain(error, None) from None
    if asked.endpoint not in ENDPOINTS:
        raise InvalidRequestError(
            f"Invalid 'endpoint': Expected one of {', '.join(ENDPOINTS)}, found "
            f"{quoted(asked.endpoint)}.",
            param="endpoint",
        )
    seconds = read_window(asked.completion_window)
    if seconds is None:
        raise InvalidRequestError(
            "Invalid 'completion_window': Expected a time like 24h, 90m or 7d, from "
            f"{SHORTEST // 60}m to {LONGEST // 86_400}d, found "
            f"{quoted(asked.completion_window)}.",
            param="completion_window",
        )
    after = asked.output_expires_after
    return Batch(
        id=f"batch_{uuid.uuid4().hex}",
        owner="",
        endpoint=asked.endpoint,
        input_file_id=asked.input_file_id,
        completion_window=asked.completion_window,
        created_at=int(created),
        expires_at=int(created) + seconds,
        metadata=asked.metadata or {},
        output_seconds=after.seconds if after is not None else None,
    )


def read_file(
    fields: dict[str, str], filename: str, size: int, *, owner: str, now: int, seconds: int
) -> StoredFile:
    """A file of an upload's form. `seconds`: that batches' files are kept if it does not say."""
    purpose = fields.get("purpose", "")
    if purpose not in PURPOSES:
        raise InvalidRequestError(
            f"Invalid 'purpose': Expected one of {', '.join(PURPOSES)}, found {quoted(purpose)}.",
            param="purpose",
        )
    expires_at = now + seconds if purpose == BATCH else None
    given: dict[str, Any] = {
        name: fields[f"expires_after[{name}]"]
        for name in ("anchor", "seconds")
        if f"expires_after[{name}]" in fields
    }
    if given:
        try:
            after = ExpiresAfter.model_validate_strings(given)
        except pydantic.ValidationError as error:
            raise explain(error, None) from None
        expires_at = now + after.seconds
    return StoredFile(
        id=f"file-{uuid.uuid4().hex}",
        owner=owner,
        filename=filename,
        purpose=purpose,
        bytes=size,
        created_at=now,
        expires_at=expires_at,
    )

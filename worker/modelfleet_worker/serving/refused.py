"""What the log says of requests that are turned away."""

from __future__ import annotations

import structlog

from modelfleet_proto import worker_pb2 as pb

from ..errors import (
    AllSlotsTakenError,
    FormatFailedError,
    InvalidRequestError,
    RefusalError,
)

log = structlog.get_logger()


def log_refusal(request: pb.GenerateRequest | pb.EmbedRequest, error: RefusalError) -> None:
    """A full worker refuses often: not worth a line.

    Where the caller is wrong, only it is told why: the sentence may quote what it sent.
    """
    if not isinstance(error, AllSlotsTakenError):
        is_callers = isinstance(error, InvalidRequestError | FormatFailedError)
        log.info(
            "refused or handed over",
            model=request.model[:200],
            request_id=request.request_id[:64],
            status=error.status.name,
            reason=type(error).__name__ if is_callers else str(error)[:500],
        )

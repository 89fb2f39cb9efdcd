"""What goes wrong, and the HTTP answer that each error becomes (OpenAI's error object)."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from typing_extensions import override

# Seconds. Beyond it openai's Python client does not come back at all (and its JavaScript client
# waits without a limit), so a longer time is in the message only.
MAX_RETRY_AFTER: Final = 120
RETRY_SPREAD: Final = 0.25  # clients wait exactly as long as they are told: each is told another
SHORTEST_RETRY: Final = 0.05  # seconds
SHORTEST_SPREAD: Final = 0.5  # seconds

BUG: Final = "Internal error; the gateway's log has the details."
MAX_QUOTED: Final = 100  # characters of what clients send that an error repeats


def quoted(text: str) -> str:
    """What a client sent, as an error shows it: in quotes, and its beginning only."""
    return repr(text if len(text) <= MAX_QUOTED else text[: MAX_QUOTED - 1] + "…")


class GatewayError(Exception):
    """An error that a client sees, in OpenAI's shape."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None

    def __init__(
        self, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after  # seconds

    def body(self) -> dict[str, Any]:
        """The JSON body: `{"error": {"message", "type", "param", "code"}}`."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """`Retry-After` in whole seconds, where coming back makes sense, and in milliseconds."""
        if self.retry_after is None:
            return {}
        chance = random.random()
        return {
            "retry-after": str(retry_after(self.retry_after, chance)),
            # openai's clients read this one first.
            "retry-after-ms": str(retry_after_ms(self.retry_after, chance)),
        }


def retry_after(seconds: float, chance: float) -> int:
    """What `Retry-After` says; `chance` is in [0, 1).

    1 s -> 1 or 2; 8 s -> 8 to 10; 600 s -> 96 to 120.
    """
    base = min(max(seconds, 1.0), MAX_RETRY_AFTER / (1 + RETRY_SPREAD))
    return math.floor(math.ceil(base) + chance * (max(base * RETRY_SPREAD, 1.0) + 1))


def retry_after_ms(seconds: float, chance: float) -> int:
    """The same in milliseconds, for clients that come back sooner than in a second.

    0.2 s -> 200 to 700; 8 s -> 8,000 to 10,000; 600 s -> 96,000 to 120,000.
    """
    base = min(max(seconds, SHORTEST_RETRY), MAX_RETRY_AFTER / (1 + RETRY_SPREAD))
    return math.floor(1000 * (base + chance * max(base * RETRY_SPREAD, SHORTEST_SPREAD)))


class InvalidRequestError(GatewayError):
    """The request is wrong for every worker."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class UnauthorizedError(InvalidRequestError):
    """No valid API key came with the request."""

    status = 401
    code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        """With the challenge that a 401 must have (RFC 9110, 15.5.2)."""
        return {**super().headers(), "www-authenticate": "Bearer"}


class UnsupportedFieldError(InvalidRequestError):
    """A field that would change the answer and is not implemented."""

    code = "unsupported_parameter"


class ContextLengthExceededError(InvalidRequestError):
    """Prompt and answer can never fit; the worker's message has the numbers."""

    code = "context_length_exceeded"


class MalformedHttpError(InvalidRequestError):
    """What came is not HTTP as this server speaks it."""

    code = "malformed_http"


class RequestTimeoutError(InvalidRequestError):
    """The request was not complete in time."""

    status = 408
    code = "request_timeout"


class UnsupportedMediaTypeError(InvalidRequestError):
    """The body is not JSON, or is encoded in a way that is not read here."""

    status = 415
    code = "unsupported_media_type"


class HeadersTooLargeError(InvalidRequestError):
    """Request line and headers are larger than this gateway reads."""

    status = 431
    code = "headers_too_large"


class BodyTooLargeError(InvalidRequestError):
    """The request's body is larger than this gateway reads."""

    status = 413
    code = "body_too_large"


class KeyGoneError(InvalidRequestError):
    """The key that a batch was made with is revoked, or has expired."""

    status = 401
    code = "key_gone"


class CrossOriginError(InvalidRequestError):
    """A page of an origin that is not listed sent what browsers send unasked."""

    status = 403
    code = "cross_origin"


class FileTooLargeError(InvalidRequestError):
    """The file is larger than this gateway keeps."""

    status = 413
    code = "file_too_large"


class TooManyFilesError(InvalidRequestError):
    """The key has as many files as it may have."""

    code = "too_many_files"


class UnknownFileError(InvalidRequestError):
    """No such file, or it is another key's."""

    status = 404
    code = "file_not_found"


class UnknownBatchError(InvalidRequestError):
    """No such batch, or it is another key's."""

    status = 404
    code = "batch_not_found"


class FileInUseError(InvalidRequestError):
    """A batch that has not ended reads the file."""

    status = 409
    code = "file_in_use"


class BatchEndedError(InvalidRequestError):
    """The batch has ended: it cannot be cancelled any more."""

    status = 409
    code = "batch_ended"


class UnknownModelError(InvalidRequestError):
    """No deployment has this name."""

    status = 404
    code = "model_not_found"


class UnknownResponseError(InvalidRequestError):
    """The response that a request goes on from is not kept here, or not any more."""

    code = "previous_response_not_found"


class WrongTaskError(InvalidRequestError):
    """The model is for something else than what was asked of it."""

    code = "model_not_supported"


class UnknownUrlError(InvalidRequestError):
    """No such path here."""

    status = 404
    code = "unknown_url"


class UnsupportedEndpointError(InvalidRequestError):
    """An API that is served here has this path, and it is not served."""

    status = 404
    code = "unsupported_endpoint"


class MethodNotAllowedError(InvalidRequestError):
    """The path exists, for another method."""

    status = 405
    code = "method_not_allowed"


class QueueFullError(GatewayError):
    """The model's queue is full; nothing was started."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"
    reason = "queue_full"  # in metrics


class RateLimitError(GatewayError):
    """A limit of the API key is reached; nothing was started."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(
        self, message: str, *, limit: str, retry_after: float, headers: Mapping[str, str]
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.reason = limit  # in metrics: requests, tokens or concurrent
        self._headers = headers

    @override
    def headers(self) -> dict[str, str]:
        return super().headers() | dict(self._headers)


class QueueShareError(QueueFullError):
    """The key has as many requests in the queue as it may."""

    code = "rate_limit_exceeded"
    reason = "queue_share"


class TooManyBatchesError(GatewayError):
    """The key has as many unfinished batches as it may have."""

    status = 429
    type = "rate_limit_error"
    code = "too_many_batches"


class StoreFullError(GatewayError):
    """The store of files and batches has no room for this."""

    status = 507
    code = "store_full"


class StoreUnavailableError(GatewayError):
    """The store of files and batches cannot be read or written; all else is served."""

    status = 503
    code = "store_unavailable"


class NotReadyError(GatewayError):
    """No worker could take the request in time; nothing was started."""

    status = 503
    code = "model_not_ready"


class OverloadedError(GatewayError):
    """The requests that this gateway holds leave no memory for another; nothing was started."""

    status = 503
    code = "overloaded"


class ShuttingDownError(GatewayError):
    """This gateway's drain timeout is over."""

    status = 503
    code = "shutting_down"


class UpstreamLostError(GatewayError):
    """Workers failed at this request repeatedly, or its model was deleted: it is lost."""

    status = 502
    code = "upstream_lost"


class InternalError(GatewayError):
    """A bug of ours; the log has the traceback."""

    code = "internal_error"


class WorkerProtocolError(Exception):
    """A worker sent something that worker.proto does not allow; clients never see it."""


class StartupError(Exception):
    """The gateway cannot start as asked; the message says what to change."""

"""Errors in Anthropic's shape."""

from __future__ import annotations

from typing import Final

from ..errors import GatewayError
from ..openai_api.answer import Json

TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def error_body(error: GatewayError) -> Json:
    """`{"type": "error", "error": {"type", "message"}}`."""
    default = "invalid_request_error" if error.status < 500 else "api_error"
    kind = TYPES.get(error.status, default)
    return {"type": "error", "error": {"type": kind, "message": error.message}}

"""Errors in Ollama's shape."""

from __future__ import annotations

from ..errors import GatewayError
from ..openai_api.answer import Json


def error_body(error: GatewayError) -> Json:
    """`{"error": message}`."""
    return {"error": error.message}

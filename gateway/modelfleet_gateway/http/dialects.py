"""How each API puts its JSON on the wire: streams and errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..anthropic_api.errors import error_body as anthropic_error
from ..errors import GatewayError
from ..ollama_api.errors import error_body as ollama_error
from ..openai_api.answer import Json

SSE: Final = "text/event-stream; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What an API's responses have around their JSON."""

    content_type: str = SSE  # of a stream
    # What surrounds the events of one write, and ends a stream that is whole.
    before: str = ""
    between: str = "\n\n"
    after: str = "\n\n"
    end: bytes = b""
    has_comments: bool = True  # a stream may have lines that clients skip
    id_headers: tuple[str, ...] = ("x-request-id",)
    any_content_type: bool = False  # its clients (curl, in its own manual) name another than JSON
    error_body: Callable[[GatewayError], Json] = GatewayError.body


OPENAI: Final = Dialect(before="data: ", between="\n\ndata: ", end=b"data: [DONE]\n\n")
# Each event names itself: "event: NAME", then "data: JSON".
RESPONSES: Final = Dialect()
ANTHROPIC: Final = Dialect(error_body=anthropic_error, id_headers=("x-request-id", "request-id"))
OLLAMA: Final = Dialect(
    content_type="application/x-ndjson",
    between="\n",
    after="\n",
    has_comments=False,
    any_content_type=True,
    error_body=ollama_error,
)


def dialect_of(path: str) -> Dialect:
    """The one that clients of this path read."""
    if path.startswith("/v1/messages"):
        return ANTHROPIC
    return OLLAMA if path.startswith("/api/") else OPENAI

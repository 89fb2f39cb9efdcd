"""Cross-origin requests of browsers, for the origins that are listed (CORS, Fetch standard)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PREFLIGHT: Final = (
    (b"access-control-allow-methods", b"GET, POST, DELETE"),
    # "*" stands for every header but this one.
    (b"access-control-allow-headers", b"authorization, *"),
    (b"access-control-max-age", b"600"),
)
EXPOSED: Final = (
    b"access-control-expose-headers",
    b"retry-after, retry-after-ms, x-request-id, "
    b"x-modelfleet-model, x-modelfleet-worker, x-modelfleet-continued, "
    b"x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    b"x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens",
)


def with_cors(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    """The application, answering browsers of these origins ("*": of any); itself for none."""
    if not origins:
        return app
    allowed = frozenset(origin.lower() for origin in origins)

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        origin = headers.get("origin", "")
        if not origin or not ("*" in allowed or origin.lower() in allowed):
            await app(scope, receive, send)
            return
        granted = (
            (b"access-control-allow-origin", b"*" if "*" in allowed else origin.encode("latin-1")),
            (b"vary", b"origin"),
        )
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            start = {"type": "http.response.start", "status": 204}
            await send({**start, "headers": [*granted, *PREFLIGHT]})
            await send({"type": "http.response.body"})
            return

        async def send_granted(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *granted, EXPOSED]}
            await send(message)

        await app(scope, receive, send_granted)

    return run

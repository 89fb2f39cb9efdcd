"""Has clients reconnect elsewhere before the listener closes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLOSE: Final = (b"connection", b"close")


class CloseOnDrain:
    """An ASGI application whose answers close their connections once it drains.

    A connection that the server closes while the client's next request is on its way loses that
    request (RFC 9112, 9.6); one that an answer has announced as closing is not used again.
    """

    def __init__(self, app: ASGIApp, is_draining: Callable[[], bool]) -> None:
        self._app = app
        self._is_draining = is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""

        async def announce(message: Message) -> None:
            if message["type"] == "http.response.start" and self._is_draining():
                message = {**message, "headers": [*message.get("headers", ()), CLOSE]}
            await send(message)

        await self._app(scope, receive, announce)

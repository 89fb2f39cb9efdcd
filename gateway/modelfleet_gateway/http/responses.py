"""How responses leave a connection: read in time, closed by it, without chunks, or raw errors."""

from __future__ import annotations

import asyncio
import http
import json
from collections.abc import Callable
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from ..errors import GatewayError
from .dialects import Dialect

log = structlog.get_logger()


class ClosedByConnection(asyncio.Transport):
    """What uvicorn writes a response to: its `close` is the connection's."""

    def __init__(
        self,
        transport: asyncio.Transport,
        close: Callable[[], None],
        is_closing: Callable[[], bool],
    ) -> None:
        super().__init__()
        self._transport = transport
        self._close = close
        self._is_closing = is_closing

    @override
    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if not self._is_closing():
            self._transport.write(data)

    @override
    def close(self) -> None:
        self._close()

    @override
    def is_closing(self) -> bool:
        return self._is_closing() or self._transport.is_closing()


class ReaderWatch:
    """Cuts a client that reads nothing, for `stall_time` seconds, of what is to be written."""

    def __init__(self, transport: asyncio.Transport, stall_time: float) -> None:
        self._transport = transport
        self._stall_time = stall_time
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Much is to be written."""
        unread = self._transport.get_write_buffer_size()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._stall_time, self._look, unread)

    def forget(self) -> None:
        """Most of it was read, or the connection ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, unread: int) -> None:
        if self._transport.get_write_buffer_size() < unread:
            self.watch()
            return
        log.info("a client that reads nothing is cut", unread=unread)
        self._transport.abort()


def unframed(app: ASGIApp, cycle: RequestResponseCycle) -> ASGIApp:
    """An application whose streams have no chunks: they end with the connection."""

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_unframed(message: Message) -> None:
            if message["type"] == "http.response.start":
                cycle.chunked_encoding = False
            else:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_unframed)

    return run


def raw_response(error: GatewayError, dialect: Dialect) -> bytes:
    """An error as the last response of a connection."""
    body = json.dumps(dialect.error_body(error)).encode()
    head = (
        f"HTTP/1.1 {error.status} {http.HTTPStatus(error.status).phrase}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
    )
    return f"{head}\r\n".encode() + body

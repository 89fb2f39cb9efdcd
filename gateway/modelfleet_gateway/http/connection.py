"""One client's connection: uvicorn's HTTP/1.1, with limits and errors in OpenAI's shape.

uvicorn's httptools protocol waits for ever for headers, bodies and readers. What is added here: a
time and a size for each of them, answers to what is no HTTP, a close after which an error still
reaches a client that is sending, and streams for HTTP/1.0, which has no chunks.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import ssl
from typing import Any, Final

import httptools
import uvicorn
from starlette.types import ASGIApp
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from ..errors import (
    GatewayError,
    HeadersTooLargeError,
    MalformedHttpError,
    RequestTimeoutError,
)
from ..options import ConnectionLimits
from .asgi import CUT
from .dialects import dialect_of
from .responses import ClosedByConnection, ReaderWatch, raw_response, unframed

HTTP_1_0: Final = "1.0"
HTTP_1_1: Final = "1.1"
# Seconds between two reads of all connections whose data is dropped (64 MB a second at most): what
# clients send whose large bodies are refused takes little time from all others.
DROP_PAUSE: Final = 0.001
# Bytes of an answer that wait for its reader while its worker goes on: most answers are shorter, so
# that an answer that is finished and not read holds no slot.
MAX_UNREAD: Final = 256 * 1024
UPLOADS: Final = b"/v1/files"


class Part(enum.Enum):
    """What a connection is in the middle of receiving."""

    NOTHING = "nothing"
    HEADERS = "headers"
    BODY = "body"


class HttpConfig(uvicorn.Config):
    """uvicorn's options, and the limits of each connection."""

    def __init__(
        self,
        app: ASGIApp,
        limits: ConnectionLimits,
        *,
        drain_timeout: int,
        door: ssl.SSLContext | None = None,
    ) -> None:
        """`door`: of HTTPS; None: plain HTTP."""
        super().__init__(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=drain_timeout,
        )
        self._door = door
        self.limits = limits
        # Connections that end, and what they send is dropped.
        self.dropping: set[Connection] = set()

    @override
    def load(self) -> None:
        super().load()
        self.ssl = self._door  # uvicorn would make one of files that it never reads again


class Connection(HttpToolsProtocol):
    """uvicorn calls it; times start when something is incomplete, so most requests set none."""

    def __init__(
        self,
        config: HttpConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = config.limits
        self._dropping = config.dropping
        self.timeout_keep_alive = config.limits.idle_time  # type: ignore[assignment]
        self.url = b""
        self._part = Part.NOTHING
        self._hosts = 0
        self._header_bytes = 0  # of the headers that are complete
        self._fed_bytes = 0  # while headers are incomplete
        self._refusal: GatewayError | None = None  # why a callback of the parser stopped it
        self._late: asyncio.TimerHandle | None = None  # ends an incomplete request
        self._end: asyncio.TimerHandle | None = None  # ends a connection that is closed
        self._closing = False

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._tcp = transport
        transport.set_write_buffer_limits(high=MAX_UNREAD)
        self._reader = ReaderWatch(transport, self._limits.stall_time)
        self.transport = ClosedByConnection(transport, self._close, lambda: self._closing)
        self.timeout_keep_alive_task = self.loop.call_later(
            self._limits.idle_time, self.timeout_keep_alive_handler
        )

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._dropping.discard(self)
        self._cancel_timers()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        if self._closing:
            self.flow.pause_reading()
            self.loop.call_later(DROP_PAUSE * len(self._dropping), self._drop_more)
            return
        self._fed_bytes += len(data)
        try:
            rest = self._feed(data)
            while rest:
                rest = self._feed(rest)
        except httptools.HttpParserError:
            self._refuse(self._refusal or MalformedHttpError("Malformed HTTP request."))
            return
        if self._part is Part.NOTHING:
            return
        if self._part is Part.HEADERS and self._fed_bytes > self._limits.header_bytes:
            self._refuse(self._headers_too_large())
        elif self._late is None:
            is_headers = self._part is Part.HEADERS
            limit = self._limits.header_time if is_headers else self._body_time
            self._late = self.loop.call_later(limit, self._on_late)

    @override
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self._part = Part.HEADERS
        self._hosts = self._header_bytes = 0

    @override
    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._header_bytes += len(url)

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._header_bytes += len(name) + len(value) + 4  # the colon, a space, and CR LF
        if len(name) == 4 and name.lower() == b"host":
            self._hosts += 1

    @override
    def on_headers_complete(self) -> None:
        self._cancel_late()
        self._fed_bytes = 0
        version = self.parser.get_http_version()
        if self._header_bytes > self._limits.header_bytes:
            self._stop_parser(self._headers_too_large())
        if version not in (HTTP_1_0, HTTP_1_1) or self.parser.get_method() == b"CONNECT":
            self._stop_parser(MalformedHttpError("Expected HTTP/1.1 or HTTP/1.0, and no CONNECT."))
        if self._hosts > 1 or (self._hosts == 0 and version == HTTP_1_1):
            self._stop_parser(MalformedHttpError("A request needs exactly one Host header."))
        if not self.parser.should_upgrade():
            self._part = Part.BODY
            super().on_headers_complete()

    @override
    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._cancel_late()
        self._part = Part.NOTHING
        self._fed_bytes = 0
        super().on_message_complete()

    @override
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._unset_keepalive_if_required()
        if cycle.scope["http_version"] != HTTP_1_1:
            app = unframed(app, cycle)
        extensions: dict[Any, Any] = {CUT: functools.partial(self._cut, cycle)}
        cycle.scope["extensions"] = extensions
        super()._start_asgi_task(cycle, app)

    @override
    def timeout_keep_alive_handler(self) -> None:
        if self._tcp.get_write_buffer_size():
            self._tcp.abort()  # a whole answer that was not read in this time
        else:
            self._close()

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader.watch()

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        self._reader.forget()

    def _feed(self, data: bytes) -> bytes:
        """Parses data, and returns what is to be parsed next.

        A request that offers another protocol is answered in this one (RFC 9110, 7.8); Java's
        HttpClient offers h2c with each. The parser has stopped before the body, so a new one reads
        the same headers without the offer, and then the rest.
        """
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            head = [self.parser.get_method(), b" ", self.url, b" HTTP/1.1\r\n"]
            for name, value in self.headers:
                if name != b"upgrade":
                    head += [name, b": ", value, b"\r\n"]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
            return b"".join([*head, b"\r\n", data[upgrade.args[0] :]])
        return b""

    def _on_late(self) -> None:
        self._late = None
        if self._answers_another():
            # Its own answer comes later, and until then nothing of it may be read.
            self._late = self.loop.call_later(self._limits.body_time, self._on_late)
        elif self._part is Part.HEADERS:
            limit = self._limits.header_time
            self._refuse(RequestTimeoutError(f"The headers were not complete within {limit:g} s."))
        else:
            limit = self._body_time
            self._refuse(RequestTimeoutError(f"The body was not complete within {limit:g} s."))

    @property
    def _body_time(self) -> float:
        """Seconds until the body has to be complete."""
        is_upload = self.url.partition(b"?")[0] == UPLOADS
        return self._limits.upload_time if is_upload else self._limits.body_time

    def _answers_another(self) -> bool:
        """Whether an earlier request of this connection than the one received is not answered."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        return bool(self.pipeline) or self._part is not Part.BODY

    def _stop_parser(self, error: GatewayError) -> None:
        self._refusal = error
        raise error  # to the parser, which passes on another

    def _headers_too_large(self) -> HeadersTooLargeError:
        limit = self._limits.header_bytes
        return HeadersTooLargeError(
            f"Request line and headers are larger than {limit} bytes, the most that is read."
        )

    def _refuse(self, error: GatewayError) -> None:
        """Answers what is received with an error, and ends the connection."""
        cycle = self.cycle
        is_answering = cycle is not None and not cycle.response_complete
        if is_answering and (self._answers_another() or cycle.response_started):
            self._close(linger=False)  # an error inside of another answer would be part of it
            return
        if is_answering:
            cycle.disconnected = True
            cycle.message_event.set()
        if cycle is None or is_answering or self._part is not Part.BODY:
            self._tcp.write(raw_response(error, dialect_of(self.url.decode("latin-1"))))
        self._close(linger=True)

    def _cut(self, cycle: RequestResponseCycle) -> None:
        """Ends a response that is not whole: with its connection, and without the last chunk."""
        cycle.disconnected = True  # uvicorn expects nothing more of it
        cycle.message_event.set()
        self._close(linger=False)

    def _close(self, *, linger: bool | None = None) -> None:
        """Ends the connection when all is written, for a client that reads.

        With data on its way a plain close would be a reset, and the client might not get to read
        its answer. So only the writing side is closed, and what still comes is dropped for a while.
        """
        if self._closing:
            return
        self._closing = True
        self._cancel_timers()
        if self._tcp.is_closing():
            return
        if self._part is Part.BODY if linger is None else linger:
            self._dropping.add(self)
            self.flow.resume_reading()
            self._tcp.write_eof()
            self._end = self.loop.call_later(self._limits.linger_time, self._tcp.abort)
            return
        self._tcp.close()
        if self._tcp.get_write_buffer_size():
            self._end = self.loop.call_later(self._limits.stall_time, self._tcp.abort)

    def _drop_more(self) -> None:
        if self in self._dropping:
            self.flow.resume_reading()

    def _cancel_late(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _cancel_timers(self) -> None:
        self._cancel_late()
        self._unset_keepalive_if_required()
        self._reader.forget()
        if self._end is not None:
            self._end.cancel()
            self._end = None

"""One HTTP request and its response, at the level of ASGI."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..access.caller import CALLER
from ..access.keys import HEADERS, KeyRing
from ..errors import GatewayError, ShuttingDownError
from ..openai_api.answer import Json, encode
from .dialects import Dialect, dialect_of

Result = TypeVar("Result")

REQUEST_ID: Final = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
CLOSE: Final = (b"connection", b"close")
KEYLESS: Final = frozenset({"/healthz", "/readyz"})  # for probes, which have no key
CUT: Final = "modelfleet.cut"  # the server's extension that ends a response without its end


class CloseOnDrain:
    """An ASGI application whose responses carry `connection: close` while it drains.

    A connection that the server closes while the client's next request is on its way loses that
    request (RFC 9112, 9.6). A client that was told so opens a new connection instead.

    POSTs to the paths of `direct` go to these applications as they are, and these see to it
    themselves: a layer around `send`, of starlette's too, has a part in the cost of every token.
    """

    def __init__(
        self, app: ASGIApp, draining: asyncio.Event, *, direct: Mapping[str, ASGIApp]
    ) -> None:
        self._app = app
        self._draining = draining
        self._direct = direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        direct = self._direct.get(scope["path"])
        if direct is not None and scope["method"] == "POST":
            await direct(scope, receive, send)
            return

        async def send_with_close(message: Message) -> None:
            if message["type"] == "http.response.start" and self._draining.is_set():
                message = {**message, "headers": [*message.get("headers", ()), CLOSE]}
            await send(message)

        await self._app(scope, receive, send_with_close)


class KeyCheck:
    """An ASGI application that answers only requests with a key, before their bodies are read.

    It puts the Caller into the scope. `on_refused` gets the status of each that is refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: KeyRing,
        draining: asyncio.Event,
        *,
        on_refused: Callable[[int], None],
    ) -> None:
        self._app = app
        self._keys = keys
        self._draining = draining
        self._on_refused = on_refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or answers it with a 401."""
        if scope["path"] not in KEYLESS:
            try:
                scope[CALLER] = self._keys.admit(scope["headers"], time.time())
            except GatewayError as error:
                await self._refuse(error, scope, send)
                return
            finally:
                # What is not there can show neither in a log nor in a traceback.
                scope["headers"] = [one for one in scope["headers"] if one[0] not in HEADERS]
        await self._app(scope, receive, send)

    async def _refuse(self, error: GatewayError, scope: Scope, send: Send) -> None:
        request = Request(scope)
        dialect = dialect_of(scope["path"])
        reply = Reply(scope, send, dialect, request_id(request), self._draining)
        if "content-length" in request.headers or "transfer-encoding" in request.headers:
            reply.headers["connection"] = "close"  # its body was not read
        await reply.refuse(error)
        self._on_refused(error.status)


def request_id(request: Request) -> str:
    """The client's x-request-id if it is well-formed, else a new one."""
    given = request.headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"


class Reply:
    """Writes one response: a JSON object, or a stream of events."""

    def __init__(
        self, scope: Scope, send: Send, dialect: Dialect, request_id: str, draining: asyncio.Event
    ) -> None:
        self._scope = scope
        self._send = send
        self._dialect = dialect
        self._draining = draining
        self.request_id = request_id
        self.headers = dict.fromkeys(dialect.id_headers, request_id)
        self.streaming = False

    async def json(self, status: int, body: Json) -> None:
        """The whole response."""
        await self.content(status, encode(body).encode())

    async def content(self, status: int, content: bytes) -> None:
        """The whole response, as JSON's bytes."""
        head = self.headers | {
            "content-type": "application/json",
            "content-length": str(len(content)),
        }
        await self._start(status, head)
        await self._send({"type": "http.response.body", "body": content})

    async def open_stream(self) -> None:
        """The status line of a stream."""
        self.streaming = True
        head = self.headers | {
            "content-type": self._dialect.content_type,
            "cache-control": "no-cache",
            "x-accel-buffering": "no",  # else nginx would buffer the tokens
        }
        await self._start(200, head)

    async def events(self, bodies: list[str]) -> None:
        """Events with these bodies; waits while the client reads slowly."""
        if bodies:
            await self._write(self._framed(bodies))

    async def comment(self, text: str) -> None:
        """An SSE comment, which clients skip; nothing where the API has none."""
        if self._dialect.has_comments:
            await self._write(f": {text}\n\n".encode())

    async def end_stream(self) -> None:
        """The API's end mark, if it has one; ends the response."""
        await self._write(self._dialect.end, last=True)

    async def refuse(self, error: GatewayError) -> None:
        """An error as the whole response."""
        self.headers |= error.headers()
        await self.json(error.status, self._dialect.error_body(error))

    async def break_off(self, bodies: list[str]) -> None:
        """The last events of a stream that fails, and then the connection ends without its end.

        A client that does not know the error's event would take a response in good order for a
        whole answer.
        """
        cut: Callable[[], None] | None = self._scope.get("extensions", {}).get(CUT)
        await self._write(self._framed(bodies), last=cut is None)
        if cut is not None:
            cut()

    def _framed(self, bodies: list[str]) -> bytes:
        dialect = self._dialect
        return (dialect.before + dialect.between.join(bodies) + dialect.after).encode()

    async def _start(self, status: int, headers: dict[str, str]) -> None:
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        if self._draining.is_set():
            raw.append(CLOSE)
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    def _write(self, data: bytes, *, last: bool = False) -> Awaitable[None]:
        return self._send({"type": "http.response.body", "body": data, "more_body": not last})


async def run_while_connected(
    work: Coroutine[Any, Any, Result], receive: Receive, stop: asyncio.Future[None]
) -> Result:
    """The result of `work`, which is cancelled when its result has no use any more.

    Raises ClientDisconnect when the client disconnects, ShuttingDownError when `stop` is done. The
    body must have been read. `work` must not end the response: that would look like a disconnect.
    """
    task = asyncio.create_task(work)
    disconnect = asyncio.create_task(_wait_for_disconnect(receive))
    try:
        waited: set[asyncio.Future[Any]] = {task, disconnect, stop}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if disconnect.done():
            raise ClientDisconnect
        raise ShuttingDownError(
            "This gateway shuts down and its drain timeout is over.", retry_after=1
        )
    finally:
        task.cancel()
        disconnect.cancel()
        await asyncio.gather(task, disconnect, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

"""Requests of batches: they call this gateway's endpoints as HTTP does, without a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from starlette.types import ASGIApp, Message, Scope

from ..access.caller import CALLER, Caller
from ..batches.submission import Answered
from ..errors import KeyGoneError
from ..openai_api.answer import encode
from .admission import PRIORITY
from .generation import CLIENT_DISCONNECTED

GONE: Final = KeyGoneError("The key that this batch was made with is revoked, or has expired.")


class InProcess:
    """What a batch's lines are submitted to; `endpoints` are applications by path.

    `caller_of` is given a key's id, and its result is the caller of its requests; None: there is
    no such key any more.
    """

    def __init__(
        self,
        endpoints: Mapping[str, ASGIApp],
        caller_of: Callable[[str], Caller | None],
    ) -> None:
        self._endpoints = endpoints
        self._caller_of = caller_of

    async def __call__(
        self,
        url: str,
        body: bytes,
        *,
        request_id: str,
        key_id: str,
        on_queued: Callable[[], None],
    ) -> Answered:
        """The response, errors too; cancelling it ends the request as a disconnect does."""
        received = iter([{"type": "http.request", "body": body, "more_body": False}])
        answer = _Answer()

        async def receive() -> Message:
            for message in received:
                return message
            on_queued()  # its body is understood, and nothing but its end is waited for
            await asyncio.Event().wait()  # it stays connected
            raise AssertionError

        scope = _scope(url, len(body), request_id)
        scope[PRIORITY] = "batch"
        caller = self._caller_of(key_id)
        if caller is None:
            return Answered(status=KeyGoneError.status, body=encode(GONE.body()).encode())
        scope[CALLER] = caller
        await self._endpoints[url](scope, receive, answer.send)
        return answer.answered()


class _Answer:
    def __init__(self) -> None:
        self._status = CLIENT_DISCONNECTED
        self._headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = dict(message["headers"])
        else:
            self._parts.append(message.get("body", b""))

    def answered(self) -> Answered:
        wait = self._headers.get(b"retry-after", b"")
        return Answered(
            status=self._status,
            body=b"".join(self._parts) or b"null",
            retry_after=float(wait) if wait.isdigit() else 0.0,
        )


def _scope(url: str, size: int, request_id: str) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": url,
        "raw_path": url.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [
            (b"host", b"batch"),
            (b"content-type", b"application/json"),
            (b"content-length", str(size).encode()),
            (b"x-request-id", request_id.encode()),
        ],
        "client": None,
        "server": None,
        "extensions": {},
    }

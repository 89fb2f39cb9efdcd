"""One request that is answered with JSON at once: nothing is generated for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, Protocol, TypeVar

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ..access.caller import Caller, caller_of
from ..errors import BUG, GatewayError, InternalError
from ..openai_api.answer import Json
from .asgi import Reply, request_id
from .body import BodyReader, ByOwner, Read, read_for
from .dialects import Dialect

CLOSE: Final = {"connection": "close"}
Question = TypeVar("Question")

log = structlog.get_logger()


class MakeEndpoint(Protocol):
    """Makes a JsonEndpoint of this gateway."""

    def __call__(
        self,
        read: Read[Any] | ByOwner[Any],
        answer: Callable[[Any, Caller], Awaitable[Json]],
        dialect: Dialect,
    ) -> ASGIApp:
        """Of what it reads, what it answers, and how."""
        ...


class JsonEndpoint(Generic[Question]):
    """An ASGI application: `read` understands the body, `answer` is what comes of it.

    `answer` is told who asks.
    """

    def __init__(
        self,
        read: Read[Question] | ByOwner[Question],
        answer: Callable[[Question, Caller], Awaitable[Json]],
        dialect: Dialect,
        *,
        bodies: BodyReader,
        draining: asyncio.Event,
    ) -> None:
        self.read = read
        self._answer = answer
        self._dialect = dialect
        self._bodies = bodies
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; every error becomes a response, a bug without its traceback."""
        request = Request(scope, receive)
        reply = Reply(scope, send, self._dialect, request_id(request), self._draining)
        reply.headers |= CLOSE  # an error now comes before the end of the body
        try:
            with self._bodies.hold() as hold:
                any_type = self._dialect.any_content_type
                body = await self._bodies.read(request, hold, any_content_type=any_type)
                del reply.headers["connection"]
                caller = caller_of(scope)
                read = read_for(self.read, caller.tenant)
                question = await self._bodies.understand(read, body, time.time())
                answer = await self._answer(question, caller)
            await reply.json(200, answer)
        except ClientDisconnect:
            return
        except GatewayError as error:
            await reply.refuse(error)
        except Exception:
            log.exception("a request met a bug", request=reply.request_id)
            await reply.refuse(InternalError(BUG))

"""The URLs that generate: from a request's body to the last byte of its answer."""

from __future__ import annotations

import asyncio
import secrets
import time
from abc import ABC, abstractmethod
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from modelfleet_process.tracing import Tracing, read_traceparent

from ..access.caller import ANONYMOUS, CALLER
from ..errors import BUG, GatewayError, InternalError
from ..metrics import Metrics
from ..openai_api.answer import Json
from ..openai_api.fields import Asked
from ..routing.claim import SlotClaim
from ..routing.dispatch import Dispatcher
from ..routing.prefixes import choice_keys
from ..routing.stream import answer_events, choice_requests
from ..routing.tasks import Task
from .access_log import AccessLog
from .admission import asked_priority
from .asgi import Reply, request_id, run_while_connected
from .body import BodyReader, ByOwner, Hold, Read, read_for
from .dialects import Dialect
from .exchange import Exchange

CLOSE: Final = {"connection": "close"}
SESSION_HEADER: Final = "x-session-id"  # of what one conversation or agent asks
CLIENT_DISCONNECTED: Final = 499  # nginx's status for it; only in metrics

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all endpoints of a gateway share."""

    dispatcher: Dispatcher
    metrics: Metrics
    bodies: BodyReader
    draining: asyncio.Event
    stop: asyncio.Future[None]  # done when the drain timeout is over: running requests end
    access_log: AccessLog | None = None
    tracing: Tracing | None = None


class QueuedEndpoint(ABC):
    """An ASGI application for requests that wait for workers."""

    def __init__(self, dialect: Dialect, gateway: Surroundings) -> None:
        self._dialect = dialect
        self.dispatcher = gateway.dispatcher
        self.bodies = gateway.bodies
        self._metrics = gateway.metrics
        self._draining = gateway.draining
        self._access_log = gateway.access_log
        self._tracing = gateway.tracing
        self._stop = gateway.stop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; every error becomes a response, a bug without its traceback."""
        request = Request(scope, receive)
        exchange = Exchange(
            Reply(scope, send, self._dialect, request_id(request), self._draining),
            progress=request.headers.get("x-modelfleet-progress", "").lower() == "true",
            caller=scope.get(CALLER, ANONYMOUS),
            priority=asked_priority(request),
            session=request.headers.get(SESSION_HEADER, ""),
            traceparent=read_traceparent(request.headers.get("traceparent")),
        )
        if self._tracing is not None:
            exchange.start_trace(self._tracing, scope["path"])
        exchange.reply.headers |= CLOSE  # an error now comes before the end of the body
        try:
            with self.bodies.hold() as hold:
                body = await self.bodies.read(
                    request, hold, any_content_type=self._dialect.any_content_type
                )
                del exchange.reply.headers["connection"]
                work = self._serve(body, hold, exchange)
                whole = await run_while_connected(work, receive, self._stop)
            if whole is None:
                await exchange.reply.end_stream()
            elif isinstance(whole, bytes):
                await exchange.reply.content(200, whole)
            else:
                await exchange.reply.json(200, whole)
            status = 200
            exchange.observe_answered()
        except ClientDisconnect:
            status = CLIENT_DISCONNECTED
        except GatewayError as error:
            status = await exchange.fail(error)
        except Exception:
            log.exception("a request met a bug", **exchange.context)
            status = await exchange.fail(InternalError(BUG))
        self._metrics.count_response(exchange.model, status)
        if self._access_log is not None:
            exchange.log_access(self._access_log, status)
        if exchange.trace is not None:
            exchange.end_trace(exchange.trace, status)
        exchange.debug("answered", status=status)

    @abstractmethod
    async def _serve(self, body: bytearray, hold: Hold, exchange: Exchange) -> Json | bytes | None:
        """The whole answer, perhaps as JSON's bytes; None when it was streamed.

        Empties `body` when it is understood.
        """


class GenerationEndpoint(QueuedEndpoint):
    """For one kind of request that generates."""

    def __init__(
        self, read: Read[Asked] | ByOwner[Asked], dialect: Dialect, gateway: Surroundings
    ) -> None:
        super().__init__(dialect, gateway)
        self.read = read

    @override
    async def _serve(self, body: bytearray, hold: Hold, exchange: Exchange) -> Json | None:
        caller = exchange.caller
        read = read_for(self.read, caller.tenant)
        asked = await self.bodies.understand(read, body, time.time())
        body.clear()
        hold.resize(asked.size)
        model = await self.dispatcher.find(asked.model, caller)
        queue = self.dispatcher.queues[model.model]
        exchange.begin(queue, asked.answer, asked.model)
        queue.check_task(Task.GENERATE)
        requests = choice_requests(
            asked.prompts,
            asked.choices_per_prompt,
            model=model.model,
            # A client may send the same id twice; workers may not see it twice.
            request_id=f"{exchange.request_id}-{secrets.token_hex(3)}",
            traceparent=exchange.traceparent,
            cache_salt=caller.tenant,
        )
        keys = (
            choice_keys(
                asked.prompts,
                asked.choices_per_prompt,
                session=exchange.session or asked.session,
                salt=caller.tenant,
            )
            if model.by_prefix
            else ()
        )
        share = exchange.share(asked.service_tier, asked.size, len(asked.prompts))
        most = None if asked.max_tokens is None else asked.max_tokens * len(requests)
        with (
            exchange.admit(self.dispatcher.quotas, size=asked.size, completion=most),
            SlotClaim(queue, len(requests), asked.needs, keys, share) as claim,
        ):
            exchange.generates(claim)
            exchange.debug("queued", choices=len(requests), waiting=len(queue.requests))
            stream = answer_events(requests, claim, queue.meter, hold.add_unread, exchange.trace)
            async with aclosing(stream) as events:
                if asked.stream:
                    await exchange.stream(events, queue, claim, hold)
                    return None
                return await exchange.collect(events, queue.meter, hold)

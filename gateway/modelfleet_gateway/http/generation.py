"""The two URLs that generate: from a request's body to the last byte of its answer."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from modelfleet_proto import worker_pb2

from ..errors import GatewayError, InternalError
from ..metrics import Metrics, ModelMeter
from ..openai_api.answer import Answer
from ..openai_api.fields import GenerationFields, parse
from ..routing.dispatch import Dispatcher, ModelQueue, SlotClaim
from ..routing.merge import merged
from ..routing.stream import Choice, Event
from ..routing.view import describe_eta
from ..timing import Timing
from .reply import Json, Reply, read_body, request_id, unless_gone

CLIENT_GONE: Final = 499  # nginx's status for it; only in metrics
FIRST_PROGRESS: Final = 0.05  # seconds that nobody needs a comment for
PROGRESS_PAUSE: Final = 1.0  # seconds between comments while a stream waits
FAIL_TIMEOUT: Final = 5.0  # seconds for telling an error to a client that reads slowly

Events = AsyncGenerator[tuple[int, Event], None]

log = structlog.get_logger()


class GenerationEndpoint:
    """An ASGI application for one kind of request."""

    def __init__(
        self,
        kind: type[GenerationFields],
        dispatcher: Dispatcher,
        metrics: Metrics,
        *,
        max_body_bytes: int,
        stop: asyncio.Future[None],
    ) -> None:
        self._kind = kind
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._stop = stop  # done when nothing may run on

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; every error becomes an answer, a bug one without its traceback."""
        request = Request(scope, receive)
        exchange = Exchange(
            Reply(send, request_id(request)),
            progress=request.headers.get("x-modelfleet-progress", "").lower() == "true",
        )
        try:
            body = await read_body(request, self._max_body_bytes)
            whole = await unless_gone(self._serve(body, exchange), receive, self._stop)
            if whole is None:
                await exchange.reply.end_stream()
            else:
                await exchange.reply.json(200, whole)
            status = 200
        except ClientDisconnect:
            status = CLIENT_GONE
        except GatewayError as error:
            status = await exchange.fail(error)
        except Exception:
            log.exception("a request met a bug", **exchange.context)
            bug = InternalError("Internal error; the gateway's log has the details.")
            status = await exchange.fail(bug)
        self._metrics.answered(exchange.model, status)

    async def _serve(self, body: bytes, exchange: Exchange) -> Json | None:
        """The whole answer; None when it was streamed."""
        fields = parse(self._kind, body)
        model = await self._dispatcher.find(fields.model)
        queue = self._dispatcher.queues[model.model]
        exchange.begin(queue)
        created = time.time()
        requests = fields.worker_requests(
            model=queue.view.model,
            # A client may send the same id twice; workers may not see it twice.
            request_id=f"{exchange.request_id}-{secrets.token_hex(3)}",
            created=created,
        )
        exchange.answer = fields.new_answer(created)
        with SlotClaim(queue, len(requests)) as claim:
            events = merged(
                [
                    Choice(request, index, claim, queue.meter).events()
                    for index, request in enumerate(requests)
                ]
            )
            async with aclosing(events):
                if fields.stream:
                    await exchange.stream(events, queue)
                    return None
                return await exchange.collect(events, queue.meter)


class Exchange:
    """One request on its way: what is known of it, and its answer."""

    answer: Answer

    def __init__(self, reply: Reply, *, progress: bool) -> None:
        self.reply = reply
        self.request_id = reply.headers["x-request-id"]
        self._progress = progress
        self._queue: ModelQueue | None = None
        self._accepted = False  # a worker has it: from here on only the full answer is right
        self._timing = Timing()

    @property
    def model(self) -> str:
        """The full name of the model that it asks for; empty when that is not known."""
        return self._queue.view.model if self._queue else ""

    @property
    def context(self) -> dict[str, str]:
        """For log lines."""
        return {"request": self.request_id, "model": self.model}

    def begin(self, queue: ModelQueue) -> None:
        """Its model is known."""
        self._queue = queue
        self.reply.headers["x-modelfleet-model"] = queue.view.model
        queue.meter.arrived()

    async def collect(self, events: Events, meter: ModelMeter) -> Json:
        """The whole answer."""
        async for index, event in events:
            self._note(index, event, meter)
            self.answer.collect(index, event)
        return self.answer.whole()

    async def stream(self, events: Events, queue: ModelQueue) -> None:
        """Writes the answer as it comes; the status line when a worker has the request."""
        narrator: asyncio.Task[None] | None = None
        if self._progress:
            await self.reply.open_stream()
            narrator = asyncio.create_task(self._narrate(queue))
        try:
            async for index, event in events:
                if narrator is not None:
                    narrator.cancel()
                self._note(index, event, queue.meter)
                if not self.reply.streaming:
                    await self.reply.open_stream()
                await self.reply.events(self.answer.chunks(index, event))
            await self.reply.events(self.answer.last_chunks())
        finally:
            if narrator is not None:
                narrator.cancel()

    async def fail(self, error: GatewayError) -> int:
        """Tells the client, unless it reads so slowly that it has to be cut off; the status."""
        try:
            async with asyncio.timeout(FAIL_TIMEOUT):
                await self.reply.fail(error)
        except TimeoutError:
            log.warning("a client did not read its error", **self.context)
        if self._queue is not None and self._accepted and error.status >= 500:
            self._queue.meter.lose()
            log.error("a request is lost", reason=error.message, **self.context)
        elif self._queue is not None and error.status in (429, 503):
            self._queue.meter.refused(error.status)
        return error.status

    def _note(self, index: int, event: Event, meter: ModelMeter) -> None:
        if isinstance(event, worker_pb2.Accepted):
            if index % self.answer.choices_per_prompt == 0:
                meter.count_prompt(event.prompt_tokens)
            if not self._accepted:
                self._accepted = True
                self.answer.fingerprint = event.model_digest or None
                self.reply.headers["x-modelfleet-worker"] = event.worker_id
        else:
            self._timing.note(index, event, meter)

    async def _narrate(self, queue: ModelQueue) -> None:
        """Comments on what the client waits for, unless it is served at once."""
        await asyncio.sleep(FIRST_PROGRESS)
        while True:
            what = (
                "a slot"
                if queue.ready_workers
                else "a worker: " + describe_eta(queue.view, time.time())
            )
            await self.reply.comment(f"waiting for {what}; {len(queue.requests)} queued")
            await asyncio.sleep(PROGRESS_PAUSE)

"""One request and its response: what is written to the client, and what is known of it so far."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Final

import structlog

from modelfleet_process.tracing import Tracing, trace_id
from modelfleet_proto import worker_pb2

from ..access.caller import Caller
from ..access.quotas import Quotas
from ..errors import GatewayError, QueueFullError, RateLimitError
from ..metrics import ModelMeter, RequestTimer
from ..openai_api.answer import BaseAnswer, Json
from ..routing.calls import Event
from ..routing.claim import SlotClaim
from ..routing.continuation import Continued, Exactness
from ..routing.fairness import Share
from ..routing.queue import ModelQueue
from ..routing.stream import Events
from ..routing.view import describe_eta
from ..tracing import RequestTrace
from .access_log import AccessLog
from .admission import Admitted, admit, share_of
from .asgi import Reply
from .body import Hold

FIRST_PROGRESS: Final = 0.05  # seconds before the first comment: most requests wait less
PROGRESS_PAUSE: Final = 1.0  # seconds between comments while a stream waits
QUIET: Final = 15.0  # seconds without a token after which a comment keeps proxies from cutting it
FAIL_TIMEOUT: Final = 5.0  # seconds for sending an error to a client that reads slowly
UNLIMITED: Final = nullcontext()  # for requests whose key has no limits

log = structlog.get_logger()


class Exchange:
    """One request and its response, with what is known of them so far."""

    def __init__(
        self,
        reply: Reply,
        *,
        progress: bool,
        caller: Caller,
        priority: str | None = None,
        session: str = "",
        traceparent: str = "",
    ) -> None:
        """`session`: as a header names it. `traceparent`: the client's."""
        self.reply = reply
        self.caller = caller
        self._priority = priority  # as it was said beside the body
        self.session = session
        self._admitted: Admitted | None = None  # within its key's limits, if there are any
        self.request_id = reply.request_id
        self.traceparent = traceparent  # passed on to workers where no span of ours is between
        self.trace: RequestTrace | None = None
        self._progress = progress  # the client asked for comments while it waits
        self._answer: BaseAnswer | None = None
        self.embedded = 0  # tokens of a request for embeddings
        self._queue: ModelQueue | None = None
        self._accepted = False  # by a worker: from here on an error means a lost request
        self._continued: list[Exactness] = []  # on other workers, after failures
        self._timer = RequestTimer()
        self._debugs = log.is_enabled_for(logging.DEBUG)  # asked once: it takes a microsecond

    @property
    def answer(self) -> BaseAnswer:
        """Of a request that generates, once `begin` was called."""
        assert self._answer is not None  # noqa: S101 - nothing else asks for it
        return self._answer

    @property
    def model(self) -> str:
        """The full name of the model that it asks for; empty when that is not known."""
        return self._queue.view.model if self._queue else ""

    @property
    def context(self) -> dict[str, str]:
        """For log lines."""
        return {"request": self.request_id, "model": self.model}

    def debug(self, event: str, **fields: str | int) -> None:
        """A line about it, with its age."""
        if self._debugs:
            log.debug(event, **fields, seconds=round(self._timer.elapsed, 4), **self.context)

    def log_access(self, access_log: AccessLog, status: int) -> None:
        """Its line, once it has ended."""
        seconds = self._timer.elapsed
        tokens = self._tokens
        access_log.write(
            request=self.request_id,
            trace=self.trace.trace_id if self.trace else trace_id(self.traceparent),
            model=self.model,
            arrival=time.time() - seconds,
            status=status,
            seconds=seconds,
            ttft=self._timer.ttft,
            tokens=tokens if any(tokens) else None,
            key=self.caller.key_id,
        )

    def observe_answered(self) -> None:
        """It has been answered in full."""
        if self._queue is not None:
            prompt, completion = self._tokens
            self._queue.meter.observe_request(
                self._timer.elapsed,
                prompt=prompt,
                cached=self._answer.cached_tokens if self._answer else 0,
                completion=completion,
                failed_calls=self._answer.failed_calls if self._answer else 0,
            )

    def start_trace(self, tracing: Tracing, path: str) -> None:
        """It has spans from now on."""
        self.trace = RequestTrace(tracing, path, self.request_id, self.traceparent)

    def end_trace(self, trace: RequestTrace, status: int) -> None:
        """It has ended."""
        prompt, completion = self._tokens
        cached = self._answer.cached_tokens if self._answer else 0
        trace.end(status, tokens=(prompt, cached, completion), ttft=self._timer.ttft)

    @property
    def _tokens(self) -> tuple[int, int]:
        """Of prompts and answer, as far as they are known."""
        return self._answer.tokens if self._answer is not None else (self.embedded, 0)

    def begin(self, queue: ModelQueue, answer: BaseAnswer | None = None, asked: str = "") -> None:
        """The request is valid and its model is known. Without an answer nothing is generated.

        `asked`: the model as the client named it.
        """
        if self.trace is not None:
            self.trace.begin(asked or queue.view.model, queue.view.model)
        self._queue = queue
        self._answer = answer
        self.reply.headers["x-modelfleet-model"] = queue.view.model
        queue.meter.count_arrival()

    def share(self, service_tier: object, size: int, choices: int) -> Share:
        """How its choices wait (admission.share_of)."""
        return share_of(self.caller, self._priority, service_tier, size=size, choices=choices)

    def admit(
        self, quotas: Quotas, *, size: int, completion: int | None
    ) -> AbstractContextManager[Admitted | None]:
        """Counts it among what its key uses, or raises RateLimitError (admission.admit)."""
        admitted = admit(self.caller, quotas, self.model, size=size, completion=completion)
        if admitted is None:
            return UNLIMITED
        self._admitted = admitted
        self.reply.headers |= admitted.headers()
        return admitted

    def generates(self, claim: SlotClaim) -> None:
        """Its key is charged for what comes of this claim, whole or not."""
        if self._admitted is not None:
            self._admitted.claim = claim

    async def stream(self, events: Events, queue: ModelQueue, claim: SlotClaim, hold: Hold) -> None:
        """Writes the answer as it comes; the status line once a worker has accepted the request."""
        keep_alive = KeepAlive(self.reply, claim)
        keeps_stream = self.answer.keeps_stream
        progress: asyncio.Task[None] | None = None
        if self._progress:
            await self.reply.open_stream()
            progress = asyncio.create_task(self._report_progress(queue))
        try:
            async for index, batch in events:
                if progress is not None:
                    progress.cancel()
                chunks: list[str] = []
                for event in batch:
                    if isinstance(event, Continued):
                        self._on_continued(event)
                        await self.reply.comment(
                            f"continued on {event.worker_id}: {event.exactness}"
                        )
                        continue
                    self._on_event(index, event, queue.meter)
                    chunks += self.answer.chunks(index, event)
                    if keeps_stream:
                        hold.add_unread(event.ByteSize())
                if not self.reply.streaming:
                    await self.reply.open_stream()
                await self.reply.events(chunks)
            await self.reply.events(self.answer.last_chunks())
        finally:
            keep_alive.stop()
            if progress is not None:
                progress.cancel()

    async def collect(self, events: Events, meter: ModelMeter, hold: Hold) -> Json:
        """The whole answer. OverloadedError when it is too much beside all that is held."""
        async for index, batch in events:
            for event in batch:
                if isinstance(event, Continued):
                    self._on_continued(event)
                    continue
                self._on_event(index, event, meter)
                hold.grow(event.ByteSize())
                self.answer.collect(index, event)
        return self.answer.whole()

    async def fail(self, error: GatewayError) -> int:
        """Sends the error, for FAIL_TIMEOUT at most, and returns its HTTP status."""
        try:
            async with asyncio.timeout(FAIL_TIMEOUT):
                if self.reply.streaming:
                    await self.reply.break_off(self.answer.failure(error))
                else:
                    await self.reply.refuse(error)
        except TimeoutError:
            log.warning("a client did not read its error", **self.context)
        if self._queue is not None and self._accepted and error.status >= 500:
            self._queue.meter.count_lost()
            log.error("a request is lost", reason=error.message, **self.context)
        elif self._queue is not None and error.status in (429, 503):
            self._queue.meter.count_refusal(error.status)
            if isinstance(error, RateLimitError | QueueFullError):
                self._queue.meter.count_limited(self.caller.key_id, error.reason)
        return error.status

    def _on_event(self, index: int, event: Event, meter: ModelMeter) -> None:
        if isinstance(event, worker_pb2.Accepted):
            self.debug("dispatched", choice=index, worker=event.worker_id)
            if index % self.answer.choices_per_prompt == 0:
                meter.count_prompt(event.prompt_tokens)
                if self._admitted is not None:
                    self._admitted.count_prompt(event.prompt_tokens)
            if not self._accepted:
                self._accepted = True
                self.answer.fingerprint = event.model_digest or None
                self.reply.headers["x-modelfleet-worker"] = event.worker_id
        else:
            self._timer.observe(index, event, meter)

    def _on_continued(self, continued: Continued) -> None:
        """Of several continuations the least exact one is told."""
        self._continued.append(continued.exactness)
        self.answer.continue_as(continued.model_digest)
        worst = max(self._continued, key=list(Exactness).index)
        self.reply.headers["x-modelfleet-continued"] = worst

    async def _report_progress(self, queue: ModelQueue) -> None:
        """Sends comments on what a queued request waits for, until it is cancelled."""
        await asyncio.sleep(FIRST_PROGRESS)
        while True:
            if queue.ready_workers:
                reason = "a slot"
            else:
                reason = f"a worker: {describe_eta(queue.view, time.time())}"
            await self.reply.comment(f"waiting for {reason}; {len(queue.requests)} queued")
            await asyncio.sleep(PROGRESS_PAUSE)


class KeepAlive:
    """Comments on a stream that has no tokens for a while: in a long prefill, or between workers.

    It looks every QUIET seconds at what has come since, so tokens cost nothing more.
    """

    def __init__(self, reply: Reply, claim: SlotClaim) -> None:
        self._reply = reply
        self._claim = claim
        self._seen = 0
        self._loop = asyncio.get_running_loop()
        self._writing: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(QUIET, self._look)

    def stop(self) -> None:
        """No more of them."""
        self._timer.cancel()
        if self._writing is not None:
            self._writing.cancel()

    def _look(self) -> None:
        self._timer = self._loop.call_later(QUIET, self._look)
        seen, self._seen = self._seen, self._claim.tokens_received
        is_waiting = self._writing is None or self._writing.done()
        if seen == self._seen and is_waiting and self._reply.streaming:
            self._writing = self._loop.create_task(self._write())

    async def _write(self) -> None:
        with suppress(OSError):  # the client has left: the write of the answer sees it
            await self._reply.comment("keep-alive")

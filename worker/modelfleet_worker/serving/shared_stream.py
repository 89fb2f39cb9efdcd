"""All requests of one caller over one call (GenerateMany): commands in, their events out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import grpc
import structlog
from google.protobuf.message import DecodeError

from modelfleet_proto import worker_pb2 as pb

from ..errors import InvalidRequestError, RefusalError, TooManyRequestsError
from .generation import Event, Send

# Requests of one call, those included whose end was not read yet. A gateway has as many as there
# are slots, and those that are refused.
MAX_REQUESTS: Final = 4096
# In one message, and those of one more request: with 20 logprobs a token it has some 1.5 MiB.
MAX_TOKENS: Final = 1024

Serve = Callable[[pb.GenerateRequest, Send], Awaitable[RefusalError | None]]
Context = grpc.aio.ServicerContext[Any, Any]

log = structlog.get_logger()


class SharedStream:
    """One GenerateMany call; run it once.

    While one message is being written the events of all requests gather for the next, so a slow
    network and a step of many sequences make larger messages, not more of them. Each request has
    at most one batch of events here: it gives the next when that was taken.
    """

    def __init__(self, context: Context, serve: Serve) -> None:
        self._context = context
        self._serve = serve
        self._requests: dict[int, _SharedRequest] = {}
        self._ready: deque[_SharedRequest] = deque()  # those with events, in their order
        self._highest = 0  # number so far
        self._changed = asyncio.Event()
        self._closing = False  # nothing more will come of the caller

    async def run(self) -> None:
        """Until the caller leaves or half-closes and has all. Raises RefusalError, for the call."""
        reading = asyncio.create_task(self._read())
        try:
            while True:
                if reading.done():
                    reading.result()
                if events := self._take():
                    await self._context.write(pb.GenerateEvents(events=events))
                elif self._closing and not self._requests:
                    return
                else:
                    await self._changed.wait()
                self._changed.clear()
        finally:
            reading.cancel()
            tasks = [request.task for request in self._requests.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(reading, *tasks, return_exceptions=True)

    def close(self) -> None:
        """Takes no more commands; `run` returns when what runs has ended and was written."""
        self._closing = True
        self._changed.set()

    async def _read(self) -> None:
        try:
            while isinstance(command := await self._context.read(), pb.GenerateCommand):
                self._carry_out(command)
        finally:
            self.close()

    def _carry_out(self, command: pb.GenerateCommand) -> None:
        number = command.number
        if command.WhichOneof("command") == "start":
            self._start(number, command.start)
            return
        if number > self._highest:
            raise InvalidRequestError(
                f"request {number} was never started: the highest number so far is {self._highest}"
            )
        request = self._requests.get(number)
        if request is None:  # it has ended meanwhile
            return
        match command.WhichOneof("command"):
            case "cancel":
                request.task.cancel()
                request.events = ()
                del self._requests[number]
                self._changed.set()  # it may have been the last one
            case "pause":
                request.pause(command.pause)
            case _:
                raise InvalidRequestError("expected start, cancel or pause, found none of them")

    def _start(self, number: int, request: bytes) -> None:
        if number <= self._highest:
            raise InvalidRequestError(
                f"a request's number must be above {self._highest}, the highest so far; "
                f"found {number}"
            )
        if len(self._requests) >= MAX_REQUESTS:
            raise TooManyRequestsError(
                f"a call may have {MAX_REQUESTS} requests whose ends were not read; request "
                f"{number} is one more"
            )
        self._highest = number
        self._requests[number] = _SharedRequest(number, self._gather)
        self._requests[number].begin(request, self._serve)

    def _gather(self, request: _SharedRequest) -> None:
        """A request has events, or has ended."""
        self._ready.append(request)
        self._changed.set()

    def _take(self) -> list[pb.GenerateEvent]:
        """The events of the next message."""
        events: list[pb.GenerateEvent] = []
        tokens = 0
        while self._ready and tokens < MAX_TOKENS:
            request = self._ready.popleft()
            taken = request.take()
            tokens += sum(len(event.tokens.ids) for event in taken)
            events += taken
            if request.has_ended:
                self._requests.pop(request.number, None)
        return events


class _SharedRequest:
    """One request of the call, and its events that no message has yet."""

    task: asyncio.Task[None]

    def __init__(self, number: int, gather: Callable[[_SharedRequest], None]) -> None:
        self.number = number
        self.events: Sequence[Event | pb.Refusal] = ()
        self.has_ended = False
        self._gather = gather
        self._may_send = asyncio.Event()
        self._may_send.set()
        self._is_paused = False

    def begin(self, request: bytes, serve: Serve) -> None:
        """Starts its task."""
        self.task = asyncio.create_task(self._run(request, serve))

    def pause(self, is_paused: bool) -> None:
        """Whether its caller reads slowly."""
        self._is_paused = is_paused
        self._update()

    def take(self) -> list[pb.GenerateEvent]:
        """The events, for a message; more may come now."""
        events = [_event(self.number, event) for event in self.events]
        self.events = ()
        self._update()
        return events

    async def _run(self, serialized: bytes, serve: Serve) -> None:
        error: RefusalError | None
        try:
            error = await serve(pb.GenerateRequest.FromString(serialized), self._put)
        except DecodeError:
            error = InvalidRequestError("these bytes are no GenerateRequest")
        except Exception as bug:
            log.exception("a request met a bug", number=self.number)
            error = RefusalError(f"unexpected {type(bug).__name__}: {bug}")
        if error is not None:
            code: int = error.status.value[0]
            await self._put([pb.Refusal(code=code, details=error.details, mark=error.mark)])
        self.has_ended = True
        self._gather(self)

    async def _put(self, events: Sequence[Event | pb.Refusal]) -> None:
        await self._may_send.wait()
        self.events = events
        self._update()
        self._gather(self)

    def _update(self) -> None:
        if self.events or self._is_paused:
            self._may_send.clear()
        else:
            self._may_send.set()


def _event(number: int, event: Event | pb.Refusal) -> pb.GenerateEvent:
    if isinstance(event, pb.Tokens):
        return pb.GenerateEvent(number=number, tokens=event)
    if isinstance(event, pb.Accepted):
        return pb.GenerateEvent(number=number, accepted=event)
    if isinstance(event, pb.Finished):
        return pb.GenerateEvent(number=number, finished=event)
    return pb.GenerateEvent(number=number, refused=event)

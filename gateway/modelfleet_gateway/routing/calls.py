"""Requests on one worker, over one stream that all share.

A reader that is slow, since its client is, holds up no other: what comes for it waits here, and the
worker is told to pause it when that is much.
"""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Final

import grpc
import structlog

from modelfleet_proto import worker_pb2
from modelfleet_proto.refusals import read_refusal
from modelfleet_proto.wire import nested

from .channels import MAX_MESSAGE, METADATA
from .failover import Failure

SERVICE: Final = worker_pb2.DESCRIPTOR.services_by_name["Worker"].full_name
MAX_UNREAD: Final = 64 * 1024  # bytes that wait for a slow reader before its request is paused
STATUS_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
GIVEN_UP: Final = Failure(grpc.StatusCode.UNAVAILABLE, "disconnected or failed")
MOVED: Final = Failure(grpc.StatusCode.UNAVAILABLE, "its worker is about to go", moved=True)
YIELDED: Final = Failure(
    grpc.StatusCode.UNAVAILABLE, "an interactive request needs its slot", moved=True, yielded=True
)

Event = worker_pb2.Accepted | worker_pb2.Tokens | worker_pb2.Finished
Serialize = Callable[[], list[bytes]]  # a GenerateRequest, in pieces
CountUnread = Callable[[int], None]  # gets by how many bytes more, or fewer, wait for a reader

log = structlog.get_logger()


class CallEndedError(Exception):
    """A call ended without Finished."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.details)
        self.failure = failure


class Call(ABC):
    """One request on a worker. Its events are put in as they come, and read in their order."""

    def __init__(self, count_unread: CountUnread) -> None:
        self.sent = asyncio.Event()  # the request is on its way, or the call has ended
        self.has_ended = False
        self._count_unread = count_unread
        self._unread = 0
        self._is_paused = False
        self._events: list[Event] = []
        self._failure: Failure | None = None
        self._reader: asyncio.Future[None] | None = None  # waits for events

    async def read(self) -> list[Event]:
        """What has come since the last time, at least one; CallEndedError after the last one."""
        while not self._events:
            if self._failure is not None:
                raise CallEndedError(self._failure)
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        events, self._events = self._events, []
        if self._unread:
            self._count(-self._unread)
        if self._is_paused and not self.has_ended:
            self._is_paused = False
            self._pause(is_paused=False)
        return events

    def put(self, event: Event) -> None:
        """The next event came; dropped if the call has ended."""
        if self.has_ended:
            return
        self._events.append(event)
        if isinstance(event, worker_pb2.Finished):
            self.has_ended = True
        if self._reader is not None:
            self._wake_reader()
            return
        self._count(event.ByteSize())
        if self._unread > MAX_UNREAD and not (self._is_paused or self.has_ended):
            self._is_paused = True
            self._pause(is_paused=True)

    def end(self, failure: Failure) -> None:
        """The call ended without Finished; no-op if it had ended before."""
        if not self.has_ended:
            self.has_ended = True
            self._failure = failure
            self._wake_reader()
        self.sent.set()

    def cancel(self, why: Failure = GIVEN_UP) -> None:
        """Its worker should stop; a reader gets this failure after what has come."""
        if not self.has_ended:
            self.end(why)
            self._stop()

    def close(self) -> None:
        """Nothing is read any more."""
        self.cancel()
        self._events.clear()
        self._count(-self._unread)

    @abstractmethod
    def _pause(self, *, is_paused: bool) -> None:
        """Has the worker send nothing, or go on."""

    @abstractmethod
    def _stop(self) -> None:
        """Has the worker stop."""

    def _wake_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    def _count(self, more: int) -> None:
        self._unread += more
        self._count_unread(more)


class SharedStream:
    """One GenerateMany call to a worker, for as long as it lives, and the requests on it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        make_rpc: grpc.aio.StreamStreamMultiCallable[bytes, worker_pb2.GenerateEvents]
        make_rpc = channel.stream_stream(
            f"/{SERVICE}/GenerateMany",
            request_serializer=None,
            response_deserializer=worker_pb2.GenerateEvents.FromString,
        )
        self._rpc = make_rpc(metadata=METADATA)
        self._numbers = itertools.count(1)
        self._calls: dict[int, _SharedCall] = {}
        self._controls: deque[worker_pb2.GenerateCommand] = deque()
        self._starts: deque[_SharedCall] = deque()
        self._has_commands = asyncio.Event()
        self.has_ended = False
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]

    def start(self, request: Serialize, count_unread: CountUnread) -> Call:
        """Sends a request."""
        call = _SharedCall(self, next(self._numbers), request, count_unread)
        self._calls[call.number] = call
        self._starts.append(call)
        self._has_commands.set()
        return call

    def control(self, command: worker_pb2.GenerateCommand) -> None:
        """Sends a command about a request that was started, before all that wait to be."""
        self._controls.append(command)
        self._has_commands.set()

    def forget(self, call: _SharedCall) -> None:
        """What comes for it is dropped."""
        self._calls.pop(call.number, None)

    def close(self) -> None:
        """Ends all its calls, here and on the worker."""
        self._rpc.cancel()
        self._end(GIVEN_UP)

    async def _read(self) -> None:
        failure = Failure(grpc.StatusCode.UNAVAILABLE, "it ended the stream of all requests")
        try:
            while isinstance(message := await self._rpc.read(), worker_pb2.GenerateEvents):
                for event in message.events:
                    call = self._calls.get(event.number)
                    if call is not None:  # else it was cancelled
                        self._pass_on(event, call)
        except grpc.aio.AioRpcError as error:
            failure = failure_of(error)
        except asyncio.CancelledError:
            failure = GIVEN_UP
        except Exception as bug:
            log.exception("a stream of requests met a bug")
            failure = Failure(grpc.StatusCode.INTERNAL, f"unexpected {type(bug).__name__}")
        self._end(failure)

    def _pass_on(self, event: worker_pb2.GenerateEvent, call: _SharedCall) -> None:
        kind = event.WhichOneof("event")
        if kind == "tokens":
            call.put(event.tokens)
            return
        if kind == "accepted":
            call.put(event.accepted)
            return
        if kind == "finished":
            call.put(event.finished)
        elif kind == "refused":
            refused = event.refused
            code = STATUS_CODES.get(refused.code, grpc.StatusCode.UNKNOWN)
            call.end(Failure(code, refused.details or "no details", refused.mark))
        else:
            call.end(Failure(grpc.StatusCode.INTERNAL, "an event of an unknown kind came"))
        self.forget(call)

    async def _write(self) -> None:
        """One command after the other, so that a large request is copied once at a time."""
        while True:
            try:
                if self._controls:
                    await self._rpc.write(self._controls.popleft().SerializeToString())
                elif self._starts:
                    await self._send(self._starts.popleft())
                else:
                    self._has_commands.clear()
                    await self._has_commands.wait()
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):  # `_read` knows why
                return
            except Exception:
                log.exception("a stream of requests met a bug")
                self.close()
                return

    async def _send(self, call: _SharedCall) -> None:
        if call.number not in self._calls:  # it was cancelled
            return
        data = call.take_command()
        if len(data) > MAX_MESSAGE:
            why = f"it has {len(data)} bytes, and a worker takes {MAX_MESSAGE}"
            call.end(Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, why))
            self.forget(call)
            return
        call.was_written = True
        await self._rpc.write(data)
        call.sent.set()

    def _end(self, failure: Failure) -> None:
        self.has_ended = True
        for task in self._tasks:
            task.cancel()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.end(failure)


class _SharedCall(Call):
    """A request on a shared stream."""

    def __init__(
        self, stream: SharedStream, number: int, request: Serialize, count_unread: CountUnread
    ) -> None:
        super().__init__(count_unread)
        self.number = number
        self.was_written = False  # the worker knows its number, or will before any other command
        self._stream = stream
        self._request = request

    def take_command(self) -> bytes:
        """What starts it, for the wire."""
        start = nested(worker_pb2.GenerateCommand.START_FIELD_NUMBER, self._request())
        return b"".join(
            [worker_pb2.GenerateCommand(number=self.number).SerializeToString(), *start]
        )

    def _pause(self, *, is_paused: bool) -> None:
        self._stream.control(worker_pb2.GenerateCommand(number=self.number, pause=is_paused))

    def _stop(self) -> None:
        self._stream.forget(self)
        if self.was_written and not self._stream.has_ended:
            self._stream.control(worker_pb2.GenerateCommand(number=self.number, cancel=True))


def failure_of(error: grpc.aio.AioRpcError) -> Failure:
    """How a gRPC call ended."""
    mark = read_refusal(error.trailing_metadata())
    return Failure(error.code(), error.details() or "no details", mark)

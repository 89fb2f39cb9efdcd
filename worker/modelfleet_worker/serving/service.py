"""The Worker service: the calls of worker.proto."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any, NoReturn

import grpc
import structlog
from typing_extensions import override

from modelfleet_process.tracing import Tracing
from modelfleet_proto import worker_pb2 as pb
from modelfleet_proto import worker_pb2_grpc
from modelfleet_proto.mtls.credentials import Credentials
from modelfleet_proto.refusals import refusal_metadata

from ..errors import CallerLeftError, InvalidRequestError, RefusalError
from ..spec import ModelSpec
from .embedding import EmbeddingHandler
from .generation import Event, RequestHandler
from .lifecycle import Lifecycle
from .prompts import PromptReader
from .shared_stream import SharedStream
from .stats import build_stats
from .tokenizing import Tokenizing

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]

_HEARTBEAT = 1.0  # seconds between Stats at most: gateways take a silent worker for a stopped one
_CHECK = 0.1  # seconds between checks for a change of load


class WorkerService(worker_pb2_grpc.WorkerServicer):
    """All calls of worker.proto. A RefusalError becomes the status it names."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        worker_id: str,
        tracing: Tracing | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self._credentials = credentials  # Stats say when they expire
        self._lifecycle = lifecycle
        self._worker_id = worker_id
        self._instance_id = uuid.uuid4().hex
        self._closing = False
        prompts = PromptReader()
        self._requests = RequestHandler(lifecycle, worker_id, prompts, tracing)
        self._tokenizing = Tokenizing(lifecycle, prompts)
        self._embedding = EmbeddingHandler(lifecycle, worker_id)
        self._shared_streams: set[SharedStream] = set()

    def close(self) -> None:
        """Ends the Stats streams, and the shared ones when all is written."""
        self._closing = True
        self._lifecycle.changed.notify()
        for stream in self._shared_streams:
            stream.close()

    # Written through the context, not yielded: a coroutine is cancelled at its await as soon as
    # the client leaves, a generator only when its next value is asked for.
    @override
    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:  # type: ignore[override]
        """Refuses before the first message, or serves to the end."""

        async def send(events: Sequence[Event]) -> None:
            try:
                for event in events:
                    await context.write(_response(event))
            except grpc.aio.InternalError as error:  # the client has left
                raise CallerLeftError from error

        error = await self._requests.serve(request, send)
        if error is not None:
            await _abort(context, error)

    @override
    async def GenerateMany(self, requests: object, context: Context) -> None:  # type: ignore[override]
        """Serves all requests of one caller."""
        stream = SharedStream(context, self._requests.serve)
        self._shared_streams.add(stream)
        try:
            await stream.run()
        except RefusalError as error:
            log.warning("a caller broke the protocol", reason=str(error))
            await _abort(context, error)
        except grpc.aio.InternalError:  # raised by a write if the client has left
            pass
        finally:
            self._shared_streams.discard(stream)

    @override
    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        """The ids of a prompt."""
        try:
            return await self._tokenizing.tokenize(request)
        except RefusalError as error:
            await _abort(context, error)

    @override
    async def Detokenize(
        self, request: pb.DetokenizeRequest, context: Context
    ) -> pb.DetokenizeResponse:
        """The text of ids."""
        try:
            return await self._tokenizing.detokenize(request)
        except RefusalError as error:
            await _abort(context, error)

    @override
    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """A vector of each input."""
        try:
            return await self._embedding.serve(request)
        except RefusalError as error:
            await _abort(context, error)

    @override
    async def LoadModel(
        self, request: pb.LoadModelRequest, context: Context
    ) -> pb.LoadModelResponse:
        """Starts loading."""
        try:
            self._lifecycle.load(ModelSpec.from_proto(request.spec))
        except RefusalError as error:
            await _abort(context, error)
        return pb.LoadModelResponse()

    @override
    async def UnloadModel(
        self, request: pb.UnloadModelRequest, context: Context
    ) -> pb.UnloadModelResponse:
        """Returns when the memory is free."""
        try:
            await self._lifecycle.unload(_deadline(request.deadline_seconds))
        except RefusalError as error:
            await _abort(context, error)
        return pb.UnloadModelResponse()

    @override
    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        """Returns at once."""
        try:
            running = self._lifecycle.drain(_deadline(request.deadline_seconds))
        except RefusalError as error:
            await _abort(context, error)
        return pb.DrainResponse(running=running)

    @override
    async def GetStats(self, request: pb.StatsRequest, context: Context) -> pb.Stats:
        """As of now."""
        return self._stats()

    @override
    async def WatchStats(
        self, request: pb.StatsRequest, context: Context
    ) -> AsyncIterator[pb.Stats]:
        """At once, on each change, and every second."""
        loop = asyncio.get_running_loop()
        changed = self._lifecycle.changed
        while not self._closing:
            seen = changed.count
            stats = self._stats()
            yield stats
            sent = loop.time()
            while changed.count == seen and loop.time() - sent < _HEARTBEAT - _CHECK:
                try:
                    async with asyncio.timeout(_CHECK):
                        await changed.wait_after(seen)
                except TimeoutError:
                    if _load_key(self._stats()) != _load_key(stats):
                        break

    def _stats(self) -> pb.Stats:
        stats = build_stats(self._lifecycle, self._worker_id, self._instance_id)
        if self._credentials is not None:
            stats.certificate_expires = self._credentials.expires_at
        return stats


def _load_key(stats: pb.Stats) -> tuple[int, int, str, float]:
    """What makes another Stats worth sending before the heartbeat."""
    return stats.running, stats.waiting, stats.load.phase, round(stats.load.percent)


def _deadline(seconds: float) -> float:
    if not (math.isfinite(seconds) and seconds >= 0):
        raise InvalidRequestError(f"deadline_seconds must be 0 or more, found {seconds}")
    return seconds


async def _abort(context: Context, error: RefusalError) -> NoReturn:
    await context.abort(error.status, error.details, refusal_metadata(error.mark))


def _response(event: Event) -> pb.GenerateResponse:
    if isinstance(event, pb.Tokens):
        return pb.GenerateResponse(tokens=event)
    if isinstance(event, pb.Accepted):
        return pb.GenerateResponse(accepted=event)
    return pb.GenerateResponse(finished=event)

"""The Worker service: gRPC on one side, the lifecycle and the streams on the other."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
import structlog
from typing_extensions import override

from modelfleet_proto import worker_pb2 as pb
from modelfleet_proto import worker_pb2_grpc

from ..errors import AllSlotsTakenError, InvalidRequestError, RefusalError
from ..spec import ModelSpec
from .generation import generate
from .lifecycle import Lifecycle
from .stats import build_stats

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]

_HEARTBEAT = 1.0  # seconds between Stats at most: a silent worker is a stopped worker
_LOOK = 0.1  # seconds between looks for a change of load


class WorkerService(worker_pb2_grpc.WorkerServicer):
    """All calls of worker.proto. A RefusalError becomes the status it names."""

    def __init__(self, lifecycle: Lifecycle, worker_id: str) -> None:
        self._lifecycle = lifecycle
        self._worker_id = worker_id
        self._instance_id = uuid.uuid4().hex
        self._closing = False

    def close(self) -> None:
        """Ends the Stats streams."""
        self._closing = True
        self._lifecycle.changed.notify()

    # Written through the context, not yielded: a coroutine is cancelled at its own await when the
    # client goes, a generator that waits for its reader would notice at its next turn only.
    @override
    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:  # type: ignore[override]
        """Refuses before the first message, or serves to the end."""
        lifecycle = self._lifecycle
        try:
            serving_model = lifecycle.serving(request.model)
            await generate(
                request,
                serving_model,
                lifecycle.streams,
                lifecycle.counters,
                self._worker_id,
                context.write,
            )
        except RefusalError as error:
            # A full worker refuses all the time: that is no news.
            if not isinstance(error, AllSlotsTakenError):
                log.info(
                    "refused or handed over",
                    model=request.model,
                    request_id=request.request_id[:64],
                    status=error.status.name,
                    reason=str(error)[:500],
                )
            await _abort(context, error)
        except asyncio.CancelledError:
            lifecycle.counters.cancelled += 1
            raise
        except grpc.aio.InternalError:  # how a write ends whose reader went meanwhile
            lifecycle.counters.cancelled += 1

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
            while changed.count == seen and loop.time() - sent < _HEARTBEAT - _LOOK:
                try:
                    async with asyncio.timeout(_LOOK):
                        await changed.wait_after(seen)
                except TimeoutError:
                    if _load_key(self._stats()) != _load_key(stats):
                        break

    def _stats(self) -> pb.Stats:
        return build_stats(self._lifecycle, self._worker_id, self._instance_id)


def _load_key(stats: pb.Stats) -> tuple[int, int, str, float]:
    """What makes another Stats worth sending before the heartbeat."""
    return stats.running, stats.waiting, stats.load.phase, round(stats.load.percent)


def _deadline(seconds: float) -> float:
    if not (math.isfinite(seconds) and seconds >= 0):
        raise InvalidRequestError(f"deadline_seconds must be 0 or more, found {seconds}")
    return seconds


async def _abort(context: Context, error: RefusalError) -> NoReturn:
    await context.abort(error.status, str(error))

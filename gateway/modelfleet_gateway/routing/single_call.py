"""A request on a worker of an earlier version, which has no stream that requests share."""

from __future__ import annotations

import asyncio
from typing import Final

import grpc

from modelfleet_proto import worker_pb2

from .calls import GIVEN_UP, SERVICE, Call, CountUnread, Serialize, failure_of
from .channels import METADATA
from .failover import Failure

END_TIMEOUT: Final = 1.0  # seconds that a call may take to end after its last message


class SingleCall(Call):
    """A request on a worker that has only Generate: an earlier version."""

    def __init__(
        self, channel: grpc.aio.Channel, request: Serialize, count_unread: CountUnread
    ) -> None:
        super().__init__(count_unread)
        make_rpc: grpc.aio.UnaryStreamMultiCallable[Serialize, worker_pb2.GenerateResponse]
        make_rpc = channel.unary_stream(
            f"/{SERVICE}/Generate",
            # The call keeps to its end what it was made with: not the request, only how to make it.
            request_serializer=lambda make: b"".join(make()),
            response_deserializer=worker_pb2.GenerateResponse.FromString,
        )
        self._rpc = make_rpc(request, metadata=METADATA)
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._task = asyncio.create_task(self._carry())

    async def _carry(self) -> None:
        try:
            while isinstance(message := await self._rpc.read(), worker_pb2.GenerateResponse):
                self.sent.set()
                kind = message.WhichOneof("event")
                if kind is None:
                    break
                if kind == "finished":
                    await self._wait_for_end()
                self.put(getattr(message, kind))
                await self._may_read.wait()
            self.end(Failure(grpc.StatusCode.INTERNAL, "its stream ended without Finished"))
        except grpc.aio.AioRpcError as error:
            self.end(failure_of(error))
        except asyncio.CancelledError:
            self.end(GIVEN_UP)

    async def _wait_for_end(self) -> None:
        """Waits for the status of a call that has sent Finished: its slot is free then."""
        try:
            async with asyncio.timeout(END_TIMEOUT):
                await self._rpc.read()
        except (TimeoutError, grpc.aio.AioRpcError):
            pass  # the answer is complete anyway

    def _pause(self, *, is_paused: bool) -> None:
        if is_paused:
            self._may_read.clear()
        else:
            self._may_read.set()

    def _stop(self) -> None:
        self._rpc.cancel()
        self._may_read.set()

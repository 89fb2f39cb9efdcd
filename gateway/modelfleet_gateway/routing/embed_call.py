"""One Embed call to a worker."""

from __future__ import annotations

import asyncio

import grpc

from modelfleet_proto import worker_pb2

from .calls import GIVEN_UP, SERVICE, CallEndedError, failure_of
from .channels import METADATA
from .failover import Failure


class EmbedCall:
    """It is on its way from the start on."""

    def __init__(self, channel: grpc.aio.Channel, request: bytes) -> None:
        make_rpc: grpc.aio.UnaryUnaryMultiCallable[bytes, worker_pb2.EmbedResponse]
        make_rpc = channel.unary_unary(
            f"/{SERVICE}/Embed",
            request_serializer=None,
            response_deserializer=worker_pb2.EmbedResponse.FromString,
        )
        self._rpc = make_rpc(request, metadata=METADATA)
        self._why: Failure | None = None  # we ended it

    async def response(self) -> worker_pb2.EmbedResponse:
        """Waits for it; CallEndedError if there is none."""
        try:
            return await self._rpc
        except grpc.aio.AioRpcError as error:
            raise CallEndedError(self._why or failure_of(error)) from None
        except asyncio.CancelledError:
            if self._why is None:  # its reader was cancelled
                raise
            raise CallEndedError(self._why) from None

    def cancel(self, why: Failure = GIVEN_UP) -> None:
        """Its worker should stop; the reader gets this failure."""
        if not self._rpc.done():
            self._why = why
            self._rpc.cancel()

    def close(self) -> None:
        """Nothing is read any more."""
        if not self._rpc.done():
            self._rpc.cancel()

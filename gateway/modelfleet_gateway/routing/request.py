"""A request as workers get it: choices of one prompt share its bytes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from modelfleet_proto import worker_pb2

# Bytes of large requests that workers have not accepted yet: each is there three times meanwhile.
MAX_SENDING: Final = 4 * 1024 * 1024
SMALL: Final = 64 * 1024  # bytes of a request that passes by them


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceRequest:
    """One choice's GenerateRequest, which is serialized only when it is sent."""

    model: str  # full name
    request_id: str
    choice: int
    shared: bytes  # serialized: all that choices of one prompt have in common

    def serialize(self, received: Sequence[int] = (), digest: str = "") -> bytes:
        """For the wire; with a digest it resumes after the `received` token ids.

        Serialized messages that follow each other are one message with the fields of both
        (https://protobuf.dev/programming-guides/encoding/#last-one-wins).
        """
        own = worker_pb2.GenerateRequest(
            model=self.model, request_id=self.request_id, choice=self.choice
        )
        if digest:
            own.resume.token_ids.extend(received)
            own.resume.model_digest = digest
        return self.shared + own.SerializeToString()


class SendGate:
    """Bounds the bytes of large requests that are on their way to workers at the same time."""

    def __init__(self, limit: int = MAX_SENDING) -> None:
        self._limit = limit
        self._sending = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def enter(self, size: int) -> None:
        """Waits until `size` bytes may be sent, in order; one of any size may go alone."""
        if not self._waiting and self._has_room(size):
            self._sending += size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(size)
            else:
                self._waiting.remove((size, turn))
                self._admit()
            raise

    def leave(self, size: int) -> None:
        """A worker has taken so many bytes, or its call has ended."""
        self._sending -= size
        self._admit()

    def _has_room(self, size: int) -> bool:
        return not self._sending or self._sending + size <= self._limit

    def _admit(self) -> None:
        while self._waiting and self._has_room(self._waiting[0][0]):
            size, turn = self._waiting.popleft()
            self._sending += size
            turn.set_result(None)

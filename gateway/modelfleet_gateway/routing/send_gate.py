"""The choices of one large request that are on their way to workers at the same time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

# Bytes of choices that workers have not accepted yet: each is there twice more meanwhile.
MAX_SENDING: Final = 1024 * 1024
SMALL: Final = 64 * 1024  # bytes of a choice that passes by them


class SendGate:
    """Bounds the bytes that one request is sent as at once, whatever its n is."""

    def __init__(self, limit: int = MAX_SENDING) -> None:
        self._limit = limit
        self._sending = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def enter(self, size: int) -> Callable[[], None] | None:
        """Waits until `size` bytes may be sent, in order; one of any size may go alone.

        Returns what to call when a worker has taken them or its call has ended; None: nothing.
        """
        if size <= SMALL:
            return None
        if not self._waiting and self._has_room(size):
            self._sending += size
            return lambda: self._leave(size)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(size)
            else:
                self._waiting.remove((size, turn))
                self._admit()
            raise
        return lambda: self._leave(size)

    def _leave(self, size: int) -> None:
        self._sending -= size
        self._admit()

    def _has_room(self, size: int) -> bool:
        return not self._sending or self._sending + size <= self._limit

    def _admit(self) -> None:
        while self._waiting and self._has_room(self._waiting[0][0]):
            size, turn = self._waiting.popleft()
            self._sending += size
            turn.set_result(None)

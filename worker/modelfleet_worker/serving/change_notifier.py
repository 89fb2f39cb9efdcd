"""A change that many can wait for, without missing one."""

from __future__ import annotations

import asyncio


class ChangeNotifier:
    """Counts changes; waiters name the count that they have seen."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = asyncio.Event()

    def notify(self) -> None:
        """Wakes everyone who waits."""
        self.count += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_after(self, count: int) -> int:
        """Returns the count once it differs from the given one."""
        while self.count == count:
            await self._changed.wait()
        return self.count

"""Notifies any number of waiting tasks of changes, without losing one."""

from __future__ import annotations

import asyncio


class ChangeNotifier:
    """Counts changes; each waiting task names the count that it has seen."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = asyncio.Event()

    def notify(self) -> None:
        """Wakes all tasks that wait."""
        self.count += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_after(self, count: int) -> int:
        """Returns the count once it differs from the given one."""
        while self.count == count:
            await self._changed.wait()
        return self.count

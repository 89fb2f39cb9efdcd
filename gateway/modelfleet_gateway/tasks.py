"""Tasks that live as long as the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import structlog

PAUSE: Final = 1.0  # seconds before a loop that failed is started again

log = structlog.get_logger()


async def supervise(name: str, loop: Callable[[], Awaitable[None]]) -> None:
    """Runs an endless loop, and again after it failed: one bug must not end every stream."""
    while True:
        try:
            await loop()
        except Exception:
            log.exception("a loop failed and is started again", loop=name)
        await asyncio.sleep(PAUSE)


class TaskBag:
    """Keeps a reference to each running task, and ends them all."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Starts a task and keeps a reference to it until it ends."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Cancels what runs and waits for it."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

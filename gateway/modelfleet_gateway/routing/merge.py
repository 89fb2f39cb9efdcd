"""Several streams read as one, for requests with n > 1 or several prompts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

Item = TypeVar("Item")


async def interleave(
    streams: Sequence[AsyncGenerator[Item, None]],
) -> AsyncGenerator[Item, None]:
    """Items of all streams as they come; close it when done.

    The first error of any stream ends them all. At most one item a stream is read ahead.
    """
    queue: asyncio.Queue[Item | Exception | None] = asyncio.Queue(len(streams))

    async def read(stream: AsyncGenerator[Item, None]) -> None:
        try:
            async with aclosing(stream):
                async for item in stream:
                    await queue.put(item)
        except Exception as error:  # raised below, where all streams end
            await queue.put(error)
        else:
            await queue.put(None)

    tasks = [asyncio.create_task(read(stream)) for stream in streams]
    try:
        running = len(tasks)
        while running:
            entry = await queue.get()
            if entry is None:
                running -= 1
            elif isinstance(entry, Exception):
                raise entry
            else:
                yield entry
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

"""One line of a batch: from the input file to its result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from ..errors import StoreFullError, StoreUnavailableError
from .contents import read_part
from .host import Shared
from .lines import answered, body_of, request_id
from .objects import Batch, Line, Result
from .storage import PAUSE
from .submission import Answered

ATTEMPTS: Final = 3  # of a line whose request workers or gateways fail
NOT_NOW: Final = frozenset({429, 503, 507})  # nothing was started, and later it may be
FAILED: Final = frozenset({408, 499, 500, 502, 504})  # tried again, ATTEMPTS times in all
SHORTEST_PAUSE: Final = 1.0  # seconds before a line is tried again
LONGEST_PAUSE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Again:
    """A line has no result, and is to be run again."""

    line: Line
    at: float  # on the loop's clock


async def run_line(
    batch: Batch, fence: int, line: Line, shared: Shared, on_queued: Callable[[], None]
) -> Result | Again:
    """What came of it, which is not written yet. `on_queued`: it has a slot, or waits for one."""
    storage, loop = shared.storage, asyncio.get_running_loop()
    path = storage.contents.path(batch.input_file_id)
    try:
        body = await storage.disk(lambda: body_of(read_part(path, line.offset, line.length)))
    except (StoreFullError, StoreUnavailableError):
        return Again(line, loop.time() + PAUSE)
    name = request_id(batch.id, line.number)
    answer = await shared.submit(
        batch.endpoint, body, request_id=name, key_id=batch.key_id, on_queued=on_queued
    )
    if answer.status in NOT_NOW:
        return Again(line, loop.time() + _pause(answer))
    if answer.status in FAILED and line.attempts + 1 < ATTEMPTS:
        await storage.wait_for(lambda t: t.batches.count_attempt(batch.id, fence, line.number))
        return Again(replace(line, attempts=line.attempts + 1), loop.time() + _pause(answer))
    return answered(batch.id, fence, line, status=answer.status, request_id=name, body=answer.body)


def _pause(answer: Answered) -> float:
    """Seconds before a line is tried again."""
    return min(max(answer.retry_after, SHORTEST_PAUSE), LONGEST_PAUSE)

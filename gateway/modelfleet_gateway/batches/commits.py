"""Results of lines on their way to the disk: those that come together are written at once."""

from __future__ import annotations

import asyncio
import functools

import structlog

from ..errors import StoreFullError, StoreUnavailableError
from .batch_table import LeaseLostError
from .objects import Result
from .storage import PAUSE, Storage, Tables

log = structlog.get_logger()


class Commits:
    """`run` writes what `write` was given; a store that fails is waited for."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._waiting: list[tuple[Result, asyncio.Future[None]]] = []
        self._some = asyncio.Event()
        self.failing = False  # what is computed now could not be kept

    async def write(self, result: Result) -> None:
        """Returns when it is on the disk. LeaseLostError: another gateway has the batch."""
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((result, written))
        self._some.set()
        await written

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._some.wait()
            self._some.clear()
            group, self._waiting = self._waiting, []
            # A line that was cancelled meanwhile waits for nothing.
            group = [one for one in group if not one[1].done()]
            results = [result for result, _ in group]
            try:
                lost = await self._storage.call(functools.partial(_write, results))
            except (StoreFullError, StoreUnavailableError) as error:
                self.failing = True
                log.warning("results wait for the store", lines=len(group), reason=error.message)
                self._waiting = [*group, *self._waiting]
                await asyncio.sleep(PAUSE)
                self._some.set()
                continue
            self.failing = False
            for result, written in group:
                if written.done():
                    continue
                if result.batch in lost:
                    written.set_exception(LeaseLostError(result.batch))
                else:
                    written.set_result(None)


def _write(results: list[Result], tables: Tables) -> set[str]:
    return tables.batches.write(results)

"""How a long stream moves to another worker: that one has its tokens in its cache first.

The stream goes on where it is while the next worker computes what there is of it. Then it moves,
and what the next worker still has to compute are the few tokens that came meanwhile. Of many
streams few are computed at once, so that what runs there already does not wait for all of them.

A short stream moves at once: it is computed in a moment, and would be computed almost twice.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from modelfleet_proto import worker_pb2

from .calls import CallEndedError, CountUnread, Serialize
from .failover import NO_FAILURES, Blame, Failure, Retry, after_failure
from .slots import Slot

SHORT: Final = 256  # tokens of prompt and answer below which a stream moves at once
LONGEST: Final = 1.5  # seconds after which a stream moves, prepared or not: notices are short
ARRIVAL: Final = 1.0  # seconds that the next one waits for the first token of this one, at most

log = structlog.get_logger()


class Preparation:
    """A stream's next slot, on which its request is computed as far as it has come.

    When that is done, the call of its present slot ends, and its reader calls `finish`. If it
    fails, the stream stays where it is, until the queue has room for it again.
    """

    def __init__(
        self, present: Slot, following: Slot, request: Serialize, count_unread: CountUnread
    ) -> None:
        self._present = present
        self._following = following
        self._is_pending = True  # the stream runs on its present slot, and this has the next one
        self._has_turn = False  # among those that are computed there at once
        present.has_next = True
        following.worker.preparing += 1
        self._task = asyncio.create_task(self._run(request, count_unread))

    def finish(self) -> Slot | None:
        """Ends it; returns the next slot, on which no call runs. None: it is of no use any more."""
        slot = self._following
        if self._end() and not (slot.was_aborted or slot.was_moved):
            asyncio.get_running_loop().call_later(ARRIVAL, self._end_turn)
            return slot
        slot.release()
        self._end_turn()
        return None

    def note_token(self, slot: Slot) -> None:
        """The stream has its first token of this slot; if it is the next one, it has arrived."""
        if slot is self._following:
            self._end_turn()

    def note_release(self, slot: Slot) -> None:
        """This slot was released: nothing goes on that began with it."""
        if slot is self._following or self._is_pending:
            self.close()

    def close(self) -> None:
        """Ends it, with its slot; no-op the second time."""
        if self._end():
            self._following.release()
        self._end_turn()

    def _end(self) -> bool:
        """Whether it was pending until now."""
        was_pending, self._is_pending = self._is_pending, False
        if was_pending:
            self._task.cancel()
            self._present.has_next = False
            self._following.worker.preparing -= 1
            self._following.end_call()
        return was_pending

    def _end_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            self._following.worker.preparations.release()

    async def _run(self, request: Serialize, count_unread: CountUnread) -> None:
        try:
            async with asyncio.timeout(LONGEST):
                await self._following.worker.preparations.acquire()
                self._has_turn = True
                call = self._following.start_call(request, count_unread)
                while not any(map(_is_computed, await call.read())):
                    pass
        except TimeoutError:
            log.info("a stream moves unprepared", worker=self._following.worker.worker_id)
        except CallEndedError as ended:
            self._fail(ended.failure)
            return
        self._present.end_moved()

    def _fail(self, failure: Failure) -> None:
        worker, verdict = self._following.worker, after_failure(failure, NO_FAILURES)
        log.info(
            "a stream's move was not prepared", worker=worker.worker_id, reason=failure.details
        )
        if isinstance(verdict, Retry) and verdict.blame is Blame.FULL:
            worker.mark_full()
        elif isinstance(verdict, Retry) and verdict.blame is Blame.SUSPECT:
            worker.mark_suspect()
        elif not failure.moved:
            self._present.prepare = None  # it would fail again: the next time it moves at once
        self.close()


def _is_computed(event: object) -> bool:
    return isinstance(event, worker_pb2.Tokens | worker_pb2.Finished)

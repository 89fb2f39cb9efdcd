"""The requests that this worker has taken: one mailbox each, filled by the engine's steps."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from ..engine.messages import RequestOutput, StepOutput
from ..errors import AllSlotsTakenError, RefusalError
from .backlog import Part

_FRESH = 64  # outputs that wait as they came; a reader that keeps up never has more


class Stream:
    """The mailbox of one request, on the event loop's side."""

    def __init__(self, engine_id: str) -> None:
        self.engine_id = engine_id  # unique in the engine, whatever callers call their requests
        self.finished = False  # the engine knows it no more
        self._outputs: deque[RequestOutput] = deque()
        self._backlog: deque[Part] = deque()  # what came after them
        self._error: RefusalError | None = None
        self._arrived = asyncio.Event()

    def put(self, output: RequestOutput) -> None:
        """Adds what a step brought."""
        if self._backlog or len(self._outputs) >= _FRESH:
            if not self._backlog or self._backlog[-1].full:
                self._backlog.append(Part())
            self._backlog[-1].add(output)
        else:
            self._outputs.append(output)
        self.finished = self.finished or output.finished is not None
        self._arrived.set()

    def end(self, error: RefusalError) -> None:
        """Ends the stream early, after what has arrived."""
        self._error = self._error or error
        self._arrived.set()

    async def next(self) -> list[RequestOutput]:
        """What has arrived, at least one: a slow reader gets larger batches, up to some 256 tokens.

        Raises the error that ended the stream early.
        """
        await self._arrived.wait()
        self._arrived.clear()
        outputs = list(self._outputs)
        self._outputs.clear()
        if not outputs and self._backlog:
            outputs = [self._backlog.popleft().whole()]
        if outputs:
            if self._backlog or self._error is not None:
                self._arrived.set()
            return outputs
        if self._error is None:
            raise AssertionError("a stream was woken for nothing")
        self._arrived.set()
        raise self._error


class Streams:
    """All of them. Used from the event loop only."""

    def __init__(self) -> None:
        self._living: dict[str, Stream] = {}
        self._numbers = itertools.count()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._living)

    @contextmanager
    def take_slot(self, slots: int) -> Iterator[Stream]:
        """Holds a slot while a request is served. Raises AllSlotsTakenError."""
        if len(self._living) >= slots:
            raise AllSlotsTakenError(f"all {slots} slots are taken")
        stream = Stream(str(next(self._numbers)))
        self._living[stream.engine_id] = stream
        self._empty.clear()
        try:
            yield stream
        finally:
            del self._living[stream.engine_id]
            if not self._living:
                self._empty.set()

    def deliver(self, step: StepOutput) -> None:
        """Hands a step's outputs to their streams; an aborted request has none any more."""
        for output in step.outputs:
            stream = self._living.get(output.request_id)
            if stream is not None:
                stream.put(output)

    def end_all(self, error: RefusalError) -> None:
        """Ends every stream early."""
        for stream in self._living.values():
            stream.end(error)

    async def wait_empty(self) -> None:
        """Until no request is being served."""
        await self._empty.wait()

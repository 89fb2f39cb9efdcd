"""The requests that this worker has taken: one mailbox each, filled by the engine's steps."""

from __future__ import annotations

import asyncio
import itertools
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ..engine.messages import (
    EngineFailure,
    RequestOutput,
    RequestStart,
    StepOutput,
    TokenLogprobs,
)
from ..engine.request import FinishReason
from ..errors import AllSlotsTakenError, FormatFailedError, RefusalError

PACKED_TOKENS = 256  # in one PackedOutputs; at most so many are sent in one message
_UNPACKED = 64  # outputs that wait as they came; a reader that keeps up never has more


class Stream:
    """The mailbox of one request, on the event loop's side."""

    def __init__(self, engine_id: str) -> None:
        self.engine_id = engine_id  # unique in the engine, whatever callers call their requests
        self.finished = False  # the engine has forgotten the request
        self.start: RequestStart | None = None  # once its first token has come
        self._outputs: deque[RequestOutput] = deque()
        self._packed: deque[PackedOutputs] = deque()  # what came after them
        self._error: RefusalError | None = None
        self._arrived = asyncio.Event()

    def put(self, output: RequestOutput) -> None:
        """Adds what a step brought."""
        if self._packed or len(self._outputs) >= _UNPACKED:
            if not self._packed or self._packed[-1].is_full:
                self._packed.append(PackedOutputs())
            self._packed[-1].add(output)
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
        if not outputs and self._packed:
            outputs = [self._packed.popleft().unpack()]
        if outputs:
            if self._packed or self._error is not None:
                self._arrived.set()
            return outputs
        if self._error is None:
            raise AssertionError("a stream was woken for nothing")
        self._arrived.set()
        raise self._error


class PackedOutputs:
    """Outputs that a slow reader has not read yet, in a tenth of the memory of their objects.

    With 20 logprobs they take some 200 bytes a token.
    """

    def __init__(self) -> None:
        self._request_id = ""
        self._ids, self._chosen = array("I"), array("f")  # as float32, which is what is sent
        self._tops, self._top_ids, self._top = array("H"), array("I"), array("f")
        self._cached_tokens = 0
        self._finished: FinishReason | None = None

    @property
    def is_full(self) -> bool:
        """Whether the next output belongs into another one."""
        return len(self._ids) >= PACKED_TOKENS

    def add(self, output: RequestOutput) -> None:
        """Appends what a step brought."""
        self._request_id = output.request_id
        self._ids.extend(output.ids)
        for logprobs in output.logprobs:
            self._chosen.append(logprobs.chosen)
            self._tops.append(len(logprobs.top))
            for token_id, logprob in logprobs.top:
                self._top_ids.append(token_id)
                self._top.append(logprob)
        self._cached_tokens = max(self._cached_tokens, output.cached_tokens)
        self._finished = output.finished

    def unpack(self) -> RequestOutput:
        """All of it as one output."""
        tops = iter(zip(self._top_ids, self._top, strict=True))
        return RequestOutput(
            request_id=self._request_id,
            ids=tuple(self._ids),
            logprobs=tuple(
                TokenLogprobs(chosen, tuple(next(tops) for _ in range(count)))
                for chosen, count in zip(self._chosen, self._tops, strict=True)
            ),
            cached_tokens=self._cached_tokens,
            finished=self._finished,
        )


class Streams:
    """All of them. Used from the event loop only, except for `receive`."""

    def __init__(self, on_failure: Callable[[EngineFailure], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_failure = on_failure
        self._living: dict[str, Stream] = {}
        self._numbers = itertools.count()
        self._empty = asyncio.Event()
        self._empty.set()
        self.preparing = 0  # of these, streams that still run elsewhere

    def __len__(self) -> int:
        return len(self._living)

    @contextmanager
    def take_slot(self, slots: int, *, prepares: bool = False) -> Iterator[Stream]:
        """Holds a slot while a request is served. Raises AllSlotsTakenError."""
        if len(self._living) >= slots:
            raise AllSlotsTakenError(f"all {slots} slots are taken")
        stream = Stream(str(next(self._numbers)))
        self._living[stream.engine_id] = stream
        self._empty.clear()
        self.preparing += prepares
        try:
            yield stream
        finally:
            self.preparing -= prepares
            del self._living[stream.engine_id]
            if not self._living:
                self._empty.set()

    def receive(self, step: StepOutput | EngineFailure) -> None:
        """Called from the engine's thread: passes the step on to the event loop."""
        with suppress(RuntimeError):  # the loop is closed: the process is ending
            self._loop.call_soon_threadsafe(self._dispatch, step)

    def _dispatch(self, step: StepOutput | EngineFailure) -> None:
        if isinstance(step, EngineFailure):
            self._on_failure(step)
            return
        for start in step.starts:
            begun = self._living.get(start.request_id)
            if begun is not None:
                begun.start = start
        for output in step.outputs:
            stream = self._living.get(output.request_id)
            if stream is None:  # an aborted request has none any more
                continue
            if output.failure:
                stream.finished = True
                stream.end(FormatFailedError(output.failure))
            else:
                stream.put(output)

    def end_all(self, error: RefusalError) -> None:
        """Ends every stream early."""
        for stream in self._living.values():
            stream.end(error)

    async def wait_empty(self) -> None:
        """Until no request is being served."""
        await self._empty.wait()

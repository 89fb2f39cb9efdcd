"""What requests' answers are held to: compiled beside the event loop, a few at a time, in time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, Final, TypeVar

from modelfleet_proto import worker_pb2 as pb

from ..errors import InvalidRequestError, UnavailableError
from ..text.constraint import CompiledGrammar, Grammars, Key
from ..text.grammar import JSON_OBJECT, Grammar
from ..threads import in_thread

_COMPILE_SECONDS: Final = 10.0

T = TypeVar("T")


def read_format(output_format: pb.OutputFormat) -> Grammar | None:
    """Of a GenerateRequest; None: anything. Raises InvalidRequestError."""
    match output_format.WhichOneof("format"):
        case "json_schema":
            return Grammar.json_schema(output_format.json_schema)
        case "json_object":
            return JSON_OBJECT
        case "regex":
            return Grammar.regex(output_format.regex)
        case "grammar":
            return Grammar.lark(output_format.grammar)
    raise InvalidRequestError(
        "output_format has none of json_schema, json_object, regex and grammar: a newer worker may"
        " know what it has"
    )


class GrammarCompiler:
    """Compiles what was not compiled before, in threads."""

    def __init__(self, at_once: int | None = None, most_seconds: float = _COMPILE_SECONDS) -> None:
        """One may take `most_seconds`, and wait as long for its turn. At once: by the cores."""
        self._turns = asyncio.Semaphore(at_once or compiles_at_once(len(os.sched_getaffinity(0))))
        self._most_seconds = most_seconds

    async def compile(self, grammars: Grammars, key: Key) -> CompiledGrammar:
        """Raises InvalidRequestError, also if it takes too long; it then goes on for the cache."""
        if (found := grammars.cached(key)) is not None:
            return found
        return await self.run(lambda: grammars.compile(key))

    async def run(self, work: Callable[[], T]) -> T:
        """In its turn. Raises what the work does, and InvalidRequestError if it takes too long."""
        try:
            async with asyncio.timeout(self._most_seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise UnavailableError("other formats of answers are being compiled") from None
        running = in_thread(work, "grammar")
        running.add_done_callback(self._end)
        done, _ = await asyncio.wait([running], timeout=self._most_seconds)
        if not done:
            raise InvalidRequestError(
                f"the answer's format takes longer than {self._most_seconds:g} s to compile:"
                " make it smaller"
            )
        return running.result()

    def _end(self, running: asyncio.Future[Any]) -> None:
        """What it raised was seen, though nobody may wait for it any more."""
        self._turns.release()
        if not running.cancelled():
            running.exception()


def compiles_at_once(cores: int) -> int:
    """A quarter of the cores: steps use all of them, and streams wait for the slowest one."""
    return max(1, cores // 4)

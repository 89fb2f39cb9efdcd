"""What requests' answers are held to: compiled beside the event loop, a few at a time, in time."""

from __future__ import annotations

import asyncio
from typing import Final

from modelfleet_proto import worker_pb2 as pb

from ..errors import InvalidRequestError, UnavailableError
from ..text.constraint import CompiledGrammar, Grammars, Key
from ..text.grammar import JSON_OBJECT, Grammar
from ..threads import in_thread

_COMPILE_SECONDS: Final = 10.0
_AT_ONCE: Final = 2  # each takes a core


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
    """Compiles what was not compiled before; one may take `most_seconds`, and wait as long."""

    def __init__(self, most_seconds: float = _COMPILE_SECONDS) -> None:
        self._most_seconds = most_seconds
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def compile(self, grammars: Grammars, key: Key) -> CompiledGrammar:
        """Raises InvalidRequestError, also if it takes too long; it then goes on for the cache."""
        if (found := grammars.cached(key)) is not None:
            return found
        try:
            async with asyncio.timeout(self._most_seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise UnavailableError("other formats of answers are being compiled") from None
        work = in_thread(lambda: grammars.compile(key), "grammar")
        work.add_done_callback(self._end)
        done, _ = await asyncio.wait([work], timeout=self._most_seconds)
        if not done:
            raise InvalidRequestError(
                f"the answer's format takes longer than {self._most_seconds:g} s to compile:"
                " make it smaller"
            )
        return work.result()

    def _end(self, work: asyncio.Future[CompiledGrammar]) -> None:
        """What it raised was seen, though nobody may wait for it any more."""
        self._turns.release()
        if not work.cancelled():
            work.exception()

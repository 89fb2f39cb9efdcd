"""`/api/chat` and `/api/generate`: their answers, whole and as lines."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from typing_extensions import override

from modelfleet_proto import worker_pb2

from ..errors import GatewayError
from ..openai_api.answer import FINISH_REASONS, BaseAnswer, Event, Json, encode
from ..openai_api.pieces import call_arguments, pieces
from .errors import error_body


@dataclass(kw_only=True, eq=False)
class OllamaAnswer(BaseAnswer):
    """One object, or a line for each piece and a last one that says that it is done."""

    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        super().__post_init__()
        self._accepted_at = self._first_at = 0.0  # Unix seconds
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[Json] = []  # that are whole
        self._call: tuple[str, list[str]] | None = None  # the name, and the arguments so far
        self._last: Json = {}

    @abstractmethod
    def said(self, text: str, thinking: str, calls: list[Json]) -> Json:
        """The fields of what the assistant said."""

    @override
    def chunks(self, index: int, event: Event) -> list[str]:
        lines = [self._line() | self.said(*new) for new in self._take_all(event)]
        self._texts, self._thoughts, self._calls = [], [], []  # said, and not repeated
        if isinstance(event, worker_pb2.Finished):
            lines.append(self._line() | self.said("", "", []) | self._last)
        return [encode(line) for line in lines]

    @override
    def last_chunks(self) -> list[str]:
        """The last line came with the end of the only choice."""
        return []

    @override
    def collect(self, index: int, event: Event) -> None:
        self._take_all(event)

    @override
    def whole(self) -> Json:
        said = self.said("".join(self._texts), "".join(self._thoughts), self._calls)
        return self._line() | said | self._last

    @override
    def failure(self, error: GatewayError) -> list[str]:
        return [encode(error_body(error))]

    def _line(self) -> Json:
        at = datetime.fromtimestamp(self.clock(), UTC).isoformat().replace("+00:00", "Z")
        return {"model": self.model, "created_at": at, "done": False}

    def _take_all(self, event: Event) -> list[tuple[str, str, list[Json]]]:
        """What is new: text, thinking and calls of each piece."""
        if isinstance(event, worker_pb2.Accepted):
            self._accepted_at = self.clock()
            return []
        if self._first_at == 0.0:
            self._first_at = self.clock()
        new: list[tuple[str, str, list[Json]]] = []
        for piece in pieces(event):
            kind = piece.WhichOneof("part")
            if kind == "tool_call":
                self._take_call(piece.tool_call, new)
                continue
            self._end_call(new)
            if kind == "text":
                self._texts.append(piece.text)
                new.append((piece.text, "", []))
            elif kind == "reasoning":
                self._thoughts.append(piece.reasoning)
                new.append(("", piece.reasoning, []))
        if isinstance(event, worker_pb2.Finished):
            self._end_call(new)
            self._finish(event)
        return new

    def _take_call(
        self, part: worker_pb2.ToolCallPart, new: list[tuple[str, str, list[Json]]]
    ) -> None:
        if part.name:
            self._end_call(new)
            self._call = (part.name, [])
        if self._call is not None:
            self._call[1].append(part.arguments)

    def _end_call(self, new: list[tuple[str, str, list[Json]]]) -> None:
        """A call is told when it is whole: its arguments are an object."""
        if self._call is None:
            return
        name, arguments = self._call
        self._call = None
        call: Json = {"function": {"name": name, "arguments": call_arguments("".join(arguments))}}
        self._calls.append(call)
        new.append(("", "", [call]))

    def _finish(self, finished: worker_pb2.Finished) -> None:
        self._count_usage(0, finished)
        now = self.clock()
        prompt, completion = self.tokens
        self._last = {
            "done": True,
            "done_reason": FINISH_REASONS[finished.reason],
            "total_duration": _nanoseconds(now - self.created),
            "load_duration": 0,
            "prompt_eval_count": prompt,
            "prompt_eval_duration": _nanoseconds(self._first_at - self._accepted_at),
            "eval_count": completion,
            "eval_duration": _nanoseconds(now - self._first_at),
        }


class ChatAnswer(OllamaAnswer):
    """Of a chat."""

    @override
    def said(self, text: str, thinking: str, calls: list[Json]) -> Json:
        message: Json = {"role": "assistant", "content": text}
        if thinking:
            message["thinking"] = thinking
        if calls:
            message["tool_calls"] = calls
        return {"message": message}


class GenerateAnswer(OllamaAnswer):
    """Of a completion."""

    @override
    def said(self, text: str, thinking: str, calls: list[Json]) -> Json:
        return {"response": text} | ({"thinking": thinking} if thinking else {})


def _nanoseconds(seconds: float) -> int:
    return max(0, round(seconds * 1e9))

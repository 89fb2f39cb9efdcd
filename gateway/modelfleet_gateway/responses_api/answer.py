"""`/v1/responses`: its answers, whole and as events."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from modelfleet_proto import worker_pb2

from ..errors import GatewayError
from ..openai_api.answer import BaseAnswer, Event, Json, encode
from ..openai_api.chat_answer import token_logprob
from ..openai_api.pieces import pieces
from .output import CustomCallItem, FunctionCallItem, Item, MessageItem, ReasoningItem

Keep = Callable[[str, list[Json]], None]
IN_PROGRESS: Final = "in_progress"


@dataclass(kw_only=True, eq=False)
class ResponsesAnswer(BaseAnswer):
    """A `response`, and the events of its stream."""

    keeps_stream = True

    said: Json  # what the response repeats of its request
    custom_tools: frozenset[str] = frozenset()  # whose calls are items of their own kind
    encodes_reasoning: bool = False  # items have `encrypted_content`
    keep: Keep | None = None  # given the id and the output
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        super().__post_init__()
        self.id = f"resp_{uuid.uuid4().hex}"
        self._number = 0  # of the next event
        self._items: list[Item] = []  # all but the last are closed
        self._reasoning_tokens = 0
        self._status = IN_PROGRESS
        self._finished: worker_pb2.Finished | None = None
        self._error: Json | None = None

    @override
    def chunks(self, index: int, event: Event) -> list[str]:
        return [self._encoded(body) for body in self._events(event)]

    @override
    def last_chunks(self) -> list[str]:
        return [self._encoded({"type": f"response.{self._status}", "response": self.whole()})]

    @override
    def collect(self, index: int, event: Event) -> None:
        self._events(event)

    @override
    def whole(self) -> Json:
        """The `response` as of now."""
        is_complete = self._status == "completed"
        incomplete = {"reason": "max_output_tokens"} if self._status == "incomplete" else None
        return {
            "id": self.id,
            "object": "response",
            "created_at": int(self.created),
            "completed_at": int(self.clock()) if is_complete else None,
            "status": self._status,
            "error": self._error,
            "incomplete_details": incomplete,
            "model": self.model,
            "output": [item.body() for item in self._items],
            "usage": self._usage(),
            **self.said,
        }

    @override
    def failure(self, error: GatewayError) -> list[str]:
        """The response failed, and an event that clients of any event stream take for an error."""
        self._status = "failed"
        self._error = {"code": error.code or "server_error", "message": error.message}
        body = error.body()["error"]
        failed = {"type": "response.failed", "response": self.whole()}
        told = {"type": "error", "code": body["code"], "message": body["message"]}
        return [
            self._encoded(failed),
            self._encoded(told | {"param": body["param"], "error": body}),
        ]

    def _events(self, event: Event) -> list[Json]:
        if isinstance(event, worker_pb2.Accepted):
            return [
                {"type": "response.created", "response": self.whole()},
                {"type": "response.in_progress", "response": self.whole()},
            ]
        events: list[Json] = []
        logprobs: list[Json] = []
        if isinstance(event, worker_pb2.Tokens):
            logprobs = [token_logprob(entry) for entry in event.logprobs]
        for piece in pieces(event):
            self._take(piece, logprobs, events)
            if piece.WhichOneof("part") == "text":
                logprobs = []  # said once, with the first text
        if isinstance(event, worker_pb2.Finished):
            self._finish(event, events)
        elif self._is_reasoning:
            self._reasoning_tokens += len(event.ids)
        return events

    @property
    def _is_reasoning(self) -> bool:
        return bool(self._items) and isinstance(self._items[-1], ReasoningItem)

    def _take(self, piece: worker_pb2.OutputPart, logprobs: list[Json], events: list[Json]) -> None:
        match piece.WhichOneof("part"):
            case "text":
                self._message(events).add(piece.text, logprobs, events)
            case "reasoning":
                self._reasoning(events).add(piece.reasoning, events)
            case "tool_call":
                self._take_call(piece.tool_call, events)

    def _take_call(self, part: worker_pb2.ToolCallPart, events: list[Json]) -> None:
        if part.name:
            kind = CustomCallItem if part.name in self.custom_tools else FunctionCallItem
            self._start(kind(len(self._items), part.name), events)
        last = self._items[-1] if self._items else None
        if isinstance(last, FunctionCallItem) and part.arguments:
            last.add(part.arguments, events)

    def _message(self, events: list[Json]) -> MessageItem:
        """The last item if it is a message, else a new one."""
        last = self._items[-1] if self._items else None
        if isinstance(last, MessageItem):
            return last
        item = MessageItem(len(self._items))
        self._start(item, events)
        return item

    def _reasoning(self, events: list[Json]) -> ReasoningItem:
        """The same of reasoning."""
        last = self._items[-1] if self._items else None
        if isinstance(last, ReasoningItem):
            return last
        item = ReasoningItem(len(self._items), is_encoded=self.encodes_reasoning)
        self._start(item, events)
        return item

    def _start(self, item: Item, events: list[Json]) -> None:
        if self._items:
            self._items[-1].close("completed", events)
        self._items.append(item)
        item.open(events)

    def _finish(self, finished: worker_pb2.Finished, events: list[Json]) -> None:
        is_cut = finished.reason == worker_pb2.FINISH_REASON_LENGTH
        if not self._items:
            self._message(events)
        self._status = "incomplete" if is_cut else "completed"
        self._items[-1].close(self._status, events)
        self._count_usage(0, finished)
        self._finished = finished
        if self.keep is not None:
            self.keep(self.id, [item.body() for item in self._items])

    def _usage(self) -> Json | None:
        if self._finished is None:
            return None
        prompt, completion = self.tokens
        reasoning = min(self._reasoning_tokens, completion)
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": self._cached_tokens},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": reasoning},
            "total_tokens": prompt + completion,
        }

    def _encoded(self, body: Json) -> str:
        """An event, with the next number."""
        number, self._number = self._number, self._number + 1
        return f"event: {body['type']}\ndata: {encode(body | {'sequence_number': number})}"

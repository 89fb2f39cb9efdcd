"""`/v1/messages`: its answers, whole and as events."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from modelfleet_proto import worker_pb2

from ..errors import GatewayError
from ..openai_api.answer import BaseAnswer, Event, Json, encode
from ..openai_api.pieces import call_arguments, pieces
from .errors import error_body

# By the kind of block: the type of its deltas, and the field that they and the block have.
DELTAS: Final = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}


@dataclass(kw_only=True, eq=False)
class MessagesAnswer(BaseAnswer):
    """A `message`, and the events of its stream."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._id = f"msg_{uuid.uuid4().hex[:24]}"
        self._content: list[Json] = []  # blocks, as they are opened
        self._texts: list[str] = []  # of the last block
        self._has_calls = False
        self._stop_reason: str | None = None
        self._stop_sequence: str | None = None

    @override
    def chunks(self, index: int, event: Event) -> list[str]:
        events = self._events(event)
        self._texts = []  # said, and not repeated
        return [f"event: {body['type']}\ndata: {encode(body)}" for body in events]

    @override
    def last_chunks(self) -> list[str]:
        """`message_stop` came with the end of the only choice."""
        return []

    @override
    def collect(self, index: int, event: Event) -> None:
        self._events(event)

    @override
    def whole(self) -> Json:
        return self._message() | {"content": self._content, "usage": self._usage()}

    @override
    def failure(self, error: GatewayError) -> list[str]:
        return [f"event: error\ndata: {encode(error_body(error))}"]

    def _message(self) -> Json:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": self._stop_reason,
            "stop_sequence": self._stop_sequence,
        }

    def _events(self, event: Event) -> list[Json]:
        if isinstance(event, worker_pb2.Accepted):
            usage = {"input_tokens": event.prompt_tokens, "output_tokens": 0}
            return [{"type": "message_start", "message": self._message() | {"usage": usage}}]
        events: list[Json] = []
        for piece in pieces(event):
            self._take(piece, events)
        if isinstance(event, worker_pb2.Finished):
            self._finish(event, events)
        return events

    def _take(self, piece: worker_pb2.OutputPart, events: list[Json]) -> None:
        match piece.WhichOneof("part"):
            case "text":
                self._add("text", piece.text, events)
            case "reasoning":
                self._add("thinking", piece.reasoning, events)
            case "tool_call":
                call = piece.tool_call
                if call.name:
                    self._has_calls = True
                    identity = f"toolu_{uuid.uuid4().hex[:24]}"
                    block = {"type": "tool_use", "id": identity, "name": call.name, "input": {}}
                    self._open(block, events)
                if call.arguments and self._content and self._kind == "tool_use":
                    self._add("tool_use", call.arguments, events)

    @property
    def _kind(self) -> str:
        return str(self._content[-1]["type"]) if self._content else ""

    def _add(self, kind: str, text: str, events: list[Json]) -> None:
        if self._kind != kind:
            signature = {"signature": ""} if kind == "thinking" else {}
            self._open({"type": kind, kind: "", **signature}, events)
        self._texts.append(text)
        name, field = DELTAS[kind]
        delta = {"type": name, field: text}
        index = len(self._content) - 1
        events.append({"type": "content_block_delta", "index": index, "delta": delta})

    def _open(self, block: Json, events: list[Json]) -> None:
        self._close(events)
        index = len(self._content)
        # A copy: what is written is the block as it begins.
        events.append({"type": "content_block_start", "index": index, "content_block": {**block}})
        self._content.append(block)

    def _close(self, events: list[Json]) -> None:
        if not self._content:
            return
        block, text = self._content[-1], "".join(self._texts)
        if block["type"] == "tool_use":
            block["input"] = call_arguments(text)
        else:
            block[block["type"]] = text
        self._texts = []
        events.append({"type": "content_block_stop", "index": len(self._content) - 1})

    def _finish(self, finished: worker_pb2.Finished, events: list[Json]) -> None:
        self._close(events)
        self._count_usage(0, finished)
        if finished.reason == worker_pb2.FINISH_REASON_LENGTH:
            self._stop_reason = "max_tokens"
        elif finished.stop_string:
            self._stop_reason, self._stop_sequence = "stop_sequence", finished.stop_string
        else:
            self._stop_reason = "tool_use" if self._has_calls else "end_turn"
        delta = {"stop_reason": self._stop_reason, "stop_sequence": self._stop_sequence}
        events += [
            {"type": "message_delta", "delta": delta, "usage": self._usage()},
            {"type": "message_stop"},
        ]

    def _usage(self) -> Json:
        """Anthropic counts tokens of the prompt once: as read from the cache, or as input."""
        prompt, completion = self.tokens
        return {
            "input_tokens": prompt - self._cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": self._cached_tokens,
            "output_tokens": completion,
        }

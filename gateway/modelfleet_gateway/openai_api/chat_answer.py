"""`/v1/chat/completions`: its answers."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from modelfleet_proto import worker_pb2

from .answer import Answer, Json, json_logprob, printable

REASONING: Final = "reasoning_content"


@dataclass(kw_only=True, eq=False)
class ChatAnswer(Answer):
    """`chat.completion` and `chat.completion.chunk`."""

    id_prefix = "chatcmpl-"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    # Of a choice: the ids of its calls, made here, so that they stay when another worker goes on.
    call_ids: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list), init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        # By choice, while an answer that is not streamed is collected.
        self._reasoning: dict[int, list[str]] = defaultdict(list)
        self._calls: dict[int, list[Json]] = defaultdict(list)

    def opening(self, index: int) -> Json | None:
        """The role comes first, in a chunk of its own."""
        return _choice(index, {"role": "assistant", "content": ""})

    def part(self, index: int, text: str, logprobs: Json | None) -> Json:
        """New text."""
        return _choice(index, {"content": text}, logprobs)

    def closing(self, index: int, finish_reason: str) -> Json:
        """The last chunk of a choice."""
        return _choice(index, {}, None, finish_reason)

    def parts(
        self, index: int, parts: Iterable[worker_pb2.OutputPart], logprobs: Json | None
    ) -> list[str]:
        """Chunks with what a worker has read in its answer; the first one has the logprobs."""
        chunks: list[str] = []
        for part in parts:
            kind = part.WhichOneof("part")
            if kind == "text" and logprobs is None:
                chunks.append(self._text_chunk(index, part.text))
                continue
            if kind == "text":
                delta: Json = {"content": part.text}
            elif kind == "reasoning":
                delta = {REASONING: part.reasoning}
            else:
                delta = {"tool_calls": [self._call(index, part.tool_call)]}
            chunks.append(self._chunk([_choice(index, delta, logprobs)]))
            logprobs = None
        return chunks

    def _call(self, index: int, part: worker_pb2.ToolCallPart) -> Json:
        """A piece of a call: id and name come once, with the first one."""
        function: Json = {"arguments": part.arguments}
        if not part.name:
            return {"index": part.index, "function": function}
        call_id = f"call_{uuid.uuid4().hex[:24]}"
        self.call_ids[index].append(call_id)
        return {
            "index": part.index,
            "id": call_id,
            "type": "function",
            "function": {"name": part.name, **function},
        }

    def finish_reason(self, index: int, reason: str) -> str:
        """An answer that ended by itself, and calls tools, waits for their results."""
        return "tool_calls" if reason == "stop" and self.call_ids.get(index) else reason

    def collect_parts(self, index: int, parts: Iterable[worker_pb2.OutputPart]) -> None:
        """Keeps what belongs into the whole answer."""
        for part in parts:
            kind = part.WhichOneof("part")
            if kind == "text":
                self._texts[index].append(part.text)
            elif kind == "reasoning":
                self._reasoning[index].append(part.reasoning)
            else:
                call = self._call(index, part.tool_call)
                if part.tool_call.name:
                    del call["index"]
                    call["function"]["arguments"] = [part.tool_call.arguments]
                    self._calls[index].append(call)
                else:
                    self._calls[index][-1]["function"]["arguments"].append(part.tool_call.arguments)

    def choice(self, index: int, text: str, logprobs: Json | None, finish_reason: str) -> Json:
        """A finished choice."""
        message: Json = {"role": "assistant", "content": text, "refusal": None}
        if reasoning := self._reasoning.get(index):
            message[REASONING] = "".join(reasoning)
        if calls := self._calls.get(index):
            message["content"] = text or None
            message["tool_calls"] = [
                call
                | {
                    "function": call["function"]
                    | {"arguments": "".join(call["function"]["arguments"])}
                }
                for call in calls
            ]
        return {
            "index": index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }

    def logprobs(self, index: int, tokens: Sequence[worker_pb2.TokenLogprobs]) -> Json:
        """OpenAI's `{"content": [...]}`, one entry a token."""
        return {
            "content": [token_logprob(entry) for entry in tokens],
            "refusal": None,
        }


def _choice(
    index: int, delta: Json, logprobs: Json | None = None, finish_reason: str | None = None
) -> Json:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


def token_logprob(entry: worker_pb2.TokenLogprobs) -> Json:
    """A token, how likely it was, and the likeliest in its place."""
    return _token(entry.chosen) | {"top_logprobs": [_token(other) for other in entry.top]}


def _token(token: worker_pb2.TokenLogprob) -> Json:
    return {
        "token": printable(token.token),
        "logprob": json_logprob(token.logprob),
        "bytes": list(token.token),
    }

"""`/v1/chat/completions`: its requests and its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from modelfleet_proto import worker_pb2
from modelfleet_proto.wire import nested

from .answer import Answer, Json, json_logprob, printable
from .bulk import Bulk
from .fields import MAX_TOP_LOGPROBS, UINT32, GenerationFields, utf8_of

ROLES: Final = {
    "developer": "system"
}  # "developer" is OpenAI's newer name, which chat templates lack

MAX_MESSAGES: Final = 16_384


class Message(BaseModel):
    """One message; its content may come as text parts."""

    model_config = ConfigDict(strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | None = None
    name: str | None = None
    tool_calls: list[Any] | None = None

    @pydantic.field_validator("role", mode="before")
    @classmethod
    def _no_tools(cls, role: Any) -> Any:
        if role in ("tool", "function"):
            raise PydanticCustomError("role", "Tool messages are not supported here")
        return role

    @pydantic.field_validator("content", mode="before")
    @classmethod
    def _join_text_parts(cls, content: Any) -> Any:
        if not isinstance(content, list):
            return content
        texts: list[str] = []
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            text = part.get("text") if isinstance(part, dict) else None
            if kind != "text":
                raise PydanticCustomError(
                    "content",
                    "Only text content parts are supported here, not {kind}",
                    {"kind": repr(kind)[:40]},
                )
            if not isinstance(text, str):
                raise PydanticCustomError("content", "A text part needs a string 'text'")
            texts.append(text)
        return "\n".join(texts)

    @pydantic.model_validator(mode="after")
    def _has_content(self) -> Message:
        if self.tool_calls:
            raise PydanticCustomError("tool_calls", "Tool calls are not supported here")
        if self.content is None and self.role != "assistant":
            raise PydanticCustomError("content", "A message needs 'content'")
        return self


class ChatAnswer(Answer):
    """`chat.completion` and `chat.completion.chunk`."""

    id_prefix = "chatcmpl-"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def opening(self, index: int) -> Json | None:
        """The role comes first, in a chunk of its own."""
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def part(self, index: int, text: str, logprobs: Json | None) -> Json:
        """New text."""
        delta = {"content": text}
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}

    def closing(self, index: int, finish_reason: str) -> Json:
        """The last chunk of a choice."""
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": finish_reason}

    def choice(self, index: int, text: str, logprobs: Json | None, finish_reason: str) -> Json:
        """A finished choice."""
        return {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }

    def logprobs(self, index: int, tokens: Sequence[worker_pb2.TokenLogprobs]) -> Json:
        """OpenAI's `{"content": [...]}`, one entry a token."""
        return {
            "content": [token_logprob(entry) for entry in tokens],
            "refusal": None,
        }


def token_logprob(entry: worker_pb2.TokenLogprobs) -> Json:
    """A token, how likely it was, and the likeliest in its place."""
    return _token(entry.chosen) | {"top_logprobs": [_token(other) for other in entry.top]}


def _token(token: worker_pb2.TokenLogprob) -> Json:
    return {
        "token": printable(token.token),
        "logprob": json_logprob(token.logprob),
        "bytes": list(token.token),
    }


class ChatRequest(GenerationFields):
    """The body of a chat completion."""

    answer_type = ChatAnswer

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=UINT32)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    @pydantic.model_validator(mode="after")
    def _alternatives_need_logprobs(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError("top_logprobs", "'top_logprobs' needs 'logprobs': true")
        return self

    def prompts(self, created: float, bulk: Bulk | None) -> list[bytes]:
        """One: the conversation."""
        max_tokens = self.max_completion_tokens or self.max_tokens or 0
        base = self.base_request(created, max_tokens=max_tokens, bulk=bulk)
        base.chat.add_generation_prompt = True
        base.logprobs.enabled = bool(self.logprobs)
        base.logprobs.top = self.top_logprobs or 0
        if bulk is not None:
            return [b"".join([base.SerializeToString(), *self._chat(bulk)])]
        for message in self.messages:
            base.chat.messages.add(
                role=ROLES.get(message.role, message.role),
                content=message.content or "",
                name=message.name or "",
            )
        return [base.SerializeToString()]

    def _chat(self, bulk: Bulk) -> list[bytes]:
        """The same messages, serialized one by one: their texts are never strings of Python."""
        messages: list[bytes] = []
        for index, message in enumerate(self.messages):
            where = f"messages.{index}"
            content = utf8_of(message.content or "", bulk, f"{where}.content")
            name = utf8_of(message.name or "", bulk, f"{where}.name")
            header = worker_pb2.ChatMessage(role=ROLES.get(message.role, message.role))
            messages += nested(
                worker_pb2.Chat.MESSAGES_FIELD_NUMBER,
                [
                    header.SerializeToString(),
                    *nested(worker_pb2.ChatMessage.CONTENT_FIELD_NUMBER, [content]),
                    *nested(worker_pb2.ChatMessage.NAME_FIELD_NUMBER, [name]),
                ],
            )
        return nested(worker_pb2.GenerateRequest.CHAT_FIELD_NUMBER, messages)

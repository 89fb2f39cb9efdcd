"""`/api/chat` and `/api/generate`: their requests."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final

from pydantic import AfterValidator, Field
from typing_extensions import override

from ..errors import InvalidRequestError
from ..openai_api.answer import Json
from ..openai_api.bulk import Bulk
from ..openai_api.completions import CompletionRequest
from ..openai_api.fields import GenerationFields, Neutral, refuse_unsupported
from ..openai_api.translated import (
    AnsweredRequest,
    Part,
    dumped,
    expanded,
    read_part,
    unsupported_value,
)
from .answer import ChatAnswer, GenerateAnswer, OllamaAnswer
from .models import without_tag

# Ollama's options, and what chats call them; all others are about how Ollama runs a model.
OPTIONS: Final = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "seed": "seed",
    "stop": "stop",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
UNSUPPORTED_OPTIONS: Final[Neutral] = {
    "mirostat": (None, 0),
    "tfs_z": (None, 1),
    "typical_p": (None, 1),
}


class OllamaRequest(AnsweredRequest):
    """What both kinds of request say."""

    names: ClassVar[Mapping[str, str]] = {
        "max_completion_tokens": "options.num_predict",
        "max_tokens": "options.num_predict",
        "response_format": "format",
        "response_format.json_schema.schema": "format",
        "chat_template_kwargs": "think",
        "reasoning_effort": "think",
    } | {name: f"options.{option}" for option, name in OPTIONS.items()}

    options: dict[str, Any] | None = None
    format: Any = None
    think: bool | str | None = None

    model: Annotated[str, AfterValidator(without_tag)]

    @property
    @override
    def streams(self) -> bool:
        """Unless it says otherwise."""
        return self.stream is not False

    def common(self, bulk: Bulk | None) -> Json:
        """What chats and plain completions have in common."""
        options = self.options or {}
        refuse_unsupported(options, UNSUPPORTED_OPTIONS, "options.")
        body = {OPTIONS[name]: value for name, value in options.items() if name in OPTIONS}
        limit = options.get("num_predict")
        if limit is not None and not (type(limit) is int and limit < 0):  # below 0: no limit
            body["max_tokens"] = limit
        if self.format == "json":
            body["response_format"] = {"type": "json_object"}
        elif isinstance(self.format, dict):
            schema = expanded(self.format, bulk)
            json_schema = {"name": "output", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": json_schema}
        elif self.format not in (None, ""):
            raise unsupported_value("format", self.format, "json or a schema")
        return body

    def thinking(self, bulk: Bulk | None) -> Json:
        """What a chat has to say for `think`."""
        think = expanded(self.think, bulk)
        if think is None:
            return {}
        chat: Json = {"chat_template_kwargs": {"enable_thinking": bool(think)}}
        return chat | ({"reasoning_effort": think} if isinstance(think, str) else {})

    def _answer(self, kind: type[OllamaAnswer], created: float, bulk: Bulk | None) -> OllamaAnswer:
        return kind(model=expanded(self.model, bulk), created=created)


class Function(Part):
    """A call's function."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class Call(Part):
    """A call that the assistant made."""

    function: Function


class Message(Part):
    """A message."""

    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: list[Call] | None = None


class ChatRequest(OllamaRequest):
    """The body of a chat."""

    messages: list[Any]
    tools: list[Any] | None = None

    @override
    def translate(self, bulk: Bulk | None) -> Json:
        if not self.messages:
            raise InvalidRequestError(
                "'messages' is empty: models are not loaded by requests here, but by their "
                "ModelDeployments.",
                param="messages",
            )
        calls: list[str] = []  # ids of those that have no result yet: Ollama has none
        messages = [
            _message(read_part(Message, value, f"messages.{index}", bulk), index, calls, bulk)
            for index, value in enumerate(self.messages)
        ]
        chat = self.common(bulk) | self.thinking(bulk) | {"messages": messages}
        if self.tools:
            chat["tools"] = expanded(self.tools, bulk)
        return chat

    @override
    def new_answer(self, created: float, bulk: Bulk | None) -> OllamaAnswer:
        return self._answer(ChatAnswer, created, bulk)


def _message(message: Message, index: int, calls: list[str], bulk: Bulk | None) -> Json:
    if message.images:
        raise unsupported_value(f"messages.{index}.images", "image", "text")
    chat: Json = {"role": message.role, "content": message.content or ""}
    if message.role == "tool":
        chat["tool_call_id"] = calls.pop(0) if calls else "call_0"
    if message.thinking:
        chat["reasoning_content"] = message.thinking
    if message.tool_calls:
        calls[:] = [f"call_{uuid.uuid4().hex[:24]}" for _ in message.tool_calls]
        chat["tool_calls"] = [
            {
                "id": identity,
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": dumped(call.function.arguments, bulk),
                },
            }
            for identity, call in zip(calls, message.tool_calls, strict=True)
        ]
    return chat


class GenerateRequest(OllamaRequest):
    """The body of a completion: of a prompt in the model's chat template, or as it is (`raw`)."""

    unsupported: ClassVar[Neutral] = {
        "context": (None, []),
        "images": (None, []),
        "suffix": (None, ""),
        "template": (None, ""),
    }

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None

    @property
    @override
    def target(self) -> type[GenerationFields]:
        return CompletionRequest if self.raw else super().target

    @override
    def translate(self, bulk: Bulk | None) -> Json:
        if not self.prompt:
            raise InvalidRequestError(
                "'prompt' is empty: models are not loaded by requests here, but by their "
                "ModelDeployments.",
                param="prompt",
            )
        body = self.common(bulk)
        if self.raw:
            return body | {"prompt": self.prompt}
        messages = [{"role": "user", "content": self.prompt}]
        if self.system:
            messages = [{"role": "system", "content": self.system}, *messages]
        return body | self.thinking(bulk) | {"messages": messages}

    @override
    def new_answer(self, created: float, bulk: Bulk | None) -> OllamaAnswer:
        return self._answer(GenerateAnswer, created, bulk)

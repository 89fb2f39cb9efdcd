"""`/v1/messages` and `/v1/messages/count_tokens`: their requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final

import pydantic
from pydantic import Field
from pydantic_core import PydanticCustomError
from typing_extensions import override

from ..errors import UnsupportedFieldError
from ..openai_api.answer import Json
from ..openai_api.bulk import Bulk
from ..openai_api.fields import UINT32, Neutral
from ..openai_api.translated import (
    AnsweredRequest,
    Part,
    TranslatedRequest,
    expanded,
    text_parts,
    unsupported_value,
)
from .answer import MessagesAnswer
from .blocks import EXPECTED, TEXTS, messages_of
from .tools import ToolChoice, chat_choice, chat_tools

SAME: Final = ("temperature", "top_p", "top_k")
# What clients of agents send to forget what was thought; with all of it kept it changes nothing.
KEEPS_ALL: Final = {"clear_thinking_20251015": "all"}


class Thinking(Part):
    """Whether the model thinks before it answers. Its budget is the model's own."""

    type: str


class OutputConfig(Part):
    """What the text is held to, and how much is thought."""

    format: dict[str, Any] | None = None
    effort: str | None = None


class CountTokensRequest(TranslatedRequest):
    """The body of a request for the number of its tokens."""

    unsupported: ClassVar[Neutral] = {
        "container": (None,),
        "mcp_servers": (None, []),
        "output_format": (None,),
    }
    names: ClassVar[Mapping[str, str]] = {
        "max_tokens": "max_tokens",
        "stop": "stop_sequences",
        "reasoning_effort": "output_config.effort",
        "response_format": "output_config.format",
        "response_format.json_schema": "output_config.format",
        "chat_template_kwargs": "thinking",
    }

    messages: Annotated[list[Any], Field(min_length=1)]
    system: str | list[Any] | None = None
    tools: list[Any] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    context_management: dict[str, Any] | None = None

    @pydantic.field_validator("system", mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        if not isinstance(value, str | list | None):
            raise PydanticCustomError("system", "Expected a string or a list of text blocks")
        return value

    @override
    def translate(self, bulk: Bulk | None) -> Json:
        self._check_context_management()
        messages = messages_of(self.messages, bulk)
        if self.system:
            content = text_parts(self.system, "system", TEXTS, EXPECTED)
            messages = [{"role": "system", "content": content}, *messages]
        chat: Json = {"messages": messages}
        if self.tools:
            chat["tools"] = chat_tools(self.tools, bulk)
            if self.tool_choice is not None:
                chat |= chat_choice(self.tool_choice)
        if self.thinking is not None:
            if self.thinking.type not in ("enabled", "adaptive", "disabled"):
                raise unsupported_value(
                    "thinking.type", self.thinking.type, "enabled, adaptive or disabled"
                )
            is_on = self.thinking.type != "disabled"
            chat["chat_template_kwargs"] = {"enable_thinking": is_on}
        if self.output_config is not None:
            chat |= _output(self.output_config, bulk)
        return chat

    def _check_context_management(self) -> None:
        edits = (self.context_management or {}).get("edits") or []
        for edit in edits if isinstance(edits, list) else [edits]:
            kind = edit.get("type") if isinstance(edit, dict) else None
            if not isinstance(kind, str) or edit.get("keep") != KEEPS_ALL.get(kind, "nothing"):
                raise UnsupportedFieldError(
                    "'context_management' is not supported here: send the messages that count.",
                    param="context_management",
                )


def _output(config: OutputConfig, bulk: Bulk | None) -> Json:
    chat: Json = {}
    if config.effort is not None:
        chat["reasoning_effort"] = expanded(config.effort, bulk)
    if config.format is not None:
        kind = config.format.get("type")
        if kind != "json_schema":
            raise unsupported_value("output_config.format.type", kind, "json_schema")
        schema = expanded(config.format.get("schema"), bulk)
        json_schema = {"name": "output", "schema": schema, "strict": True}
        chat["response_format"] = {"type": kind, "json_schema": json_schema}
    return chat


class MessagesRequest(CountTokensRequest, AnsweredRequest):
    """The body of a request for a message."""

    max_tokens: Annotated[int, Field(ge=1, le=UINT32)]
    stop_sequences: list[str] | None = None

    @override
    def translate(self, bulk: Bulk | None) -> Json:
        extra = self.model_extra or {}
        chat = super().translate(bulk) | {"max_completion_tokens": self.max_tokens}
        chat |= {name: extra[name] for name in SAME if name in extra}
        if self.stop_sequences:
            chat["stop"] = self.stop_sequences
        return chat

    @override
    def new_answer(self, created: float, bulk: Bulk | None) -> MessagesAnswer:
        return MessagesAnswer(model=expanded(self.model, bulk), created=created)

"""`/v1/chat/completions`: its requests."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from modelfleet_proto import worker_pb2
from modelfleet_proto.wire import nested

from .bulk import Bulk
from .chat_answer import ChatAnswer
from .checks import utf8_of
from .fields import MAX_TOP_LOGPROBS, UINT32, GenerationFields
from .tools import MAX_CALLS, MAX_TOOLS, check_calls, check_tools, read_choice, to_json

ROLES: Final = {
    "developer": "system"
}  # "developer" is OpenAI's newer name, which chat templates lack

MAX_MESSAGES: Final = 16_384
OF_TOOLS: Final = ("tools", "chat_template_kwargs", "reasoning_effort")
OF_CALLS: Final = ("tool_calls", "tool_call_id", "reasoning_content", "reasoning")  # of a message
NEEDED: Final = "tools"  # of a worker's features, for all that is not plain text


class Message(BaseModel):
    """One message; its content may come as text parts."""

    model_config = ConfigDict(strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = None
    name: str | None = None
    tool_calls: Annotated[list[Any], Field(max_length=MAX_CALLS)] | None = None
    tool_call_id: str | None = None
    # Of an assistant; the second name is vLLM's.
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    function_call: Any = None

    @pydantic.field_validator("role", mode="before")
    @classmethod
    def _no_functions(cls, role: Any) -> Any:
        if role == "function":
            raise PydanticCustomError(
                "role", "Messages of functions are not supported here: send the role 'tool'"
            )
        return role

    @pydantic.field_validator("tool_calls")
    @classmethod
    def _calls_of_functions(cls, calls: list[Any] | None) -> list[Any] | None:
        check_calls(calls or ())
        return calls

    @pydantic.field_validator("content", mode="before")
    @classmethod
    def _join_text_parts(cls, content: Any) -> Any:
        if not isinstance(content, list):
            return content
        texts: list[str] = []
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            text = part.get(kind) if kind in ("text", "refusal") else None
            if kind not in ("text", "refusal"):
                raise PydanticCustomError(
                    "content",
                    "Only text content parts are supported here, not {kind}",
                    {"kind": repr(kind)[:40]},
                )
            if not isinstance(text, str):
                raise PydanticCustomError("content", f"A {kind} part needs a string '{kind}'")
            texts.append(text)
        return "\n".join(texts)

    @pydantic.model_validator(mode="after")
    def _has_content(self) -> Message:
        if self.function_call is not None:
            raise PydanticCustomError(
                "function_call", "'function_call' is not supported here: send 'tool_calls'"
            )
        if self.content is None and self.role != "assistant":
            raise PydanticCustomError("content", "A message needs 'content'")
        return self

    @property
    def text(self) -> str:
        """What was said; or why nothing was."""
        return self.content or self.refusal or ""

    @property
    def is_plain(self) -> bool:
        """Whether it is a text and nothing else."""
        if self.model_fields_set.isdisjoint(OF_CALLS):
            return self.role != "tool"
        return not (
            self.tool_calls or self.tool_call_id or self.reasoning_content or self.reasoning
        )


class ChatRequest(GenerationFields):
    """The body of a chat completion."""

    answer_type = ChatAnswer

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=UINT32)] | None = None
    tools: Annotated[list[Any], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Annotated[str, Field(max_length=64)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    @pydantic.field_validator("tools")
    @classmethod
    def _functions(cls, tools: list[Any] | None) -> list[Any] | None:
        check_tools(tools or ())
        return tools

    @pydantic.model_validator(mode="after")
    def _choice_of_a_tool(self) -> ChatRequest:
        if self.tool_choice is not None:
            read_choice(self.tool_choice, self.tools, parallel=None)
        return self

    @pydantic.model_validator(mode="after")
    def _alternatives_need_logprobs(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError("top_logprobs", "'top_logprobs' needs 'logprobs': true")
        return self

    @property
    def most_tokens(self) -> int | None:
        """By either of the names of the field."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def needs(self) -> frozenset[str]:
        """Also what a worker of the version before would leave out."""
        needs = super().needs
        if not self.model_fields_set.isdisjoint(OF_TOOLS) and (
            self.tools or self.chat_template_kwargs or self.reasoning_effort is not None
        ):
            return needs | {NEEDED}
        for message in self.messages:
            if not message.is_plain:
                return needs | {NEEDED}
        return needs

    def prompts(self, created: float, bulk: Bulk | None) -> list[bytes]:
        """One: the conversation."""
        base = self.base_request(created, max_tokens=self.most_tokens or 0, bulk=bulk)
        base.chat.add_generation_prompt = base.chat.takes_parts = True
        if self.tools is not None:
            choice = read_choice(self.tool_choice, self.tools, parallel=self.parallel_tool_calls)
            base.chat.tool_choice.CopyFrom(choice)
        base.logprobs.enabled = bool(self.logprobs)
        base.logprobs.top = self.top_logprobs or 0
        if bulk is not None:
            return [b"".join([*self._chat(bulk), base.SerializeToString()])]
        if not self.model_fields_set.isdisjoint(OF_TOOLS):
            tools, arguments = self._json(None)
            base.chat.tools, base.chat.template_arguments = tools.decode(), arguments.decode()
        for index, message in enumerate(self.messages):
            told = base.chat.messages.add(
                role=ROLES.get(message.role, message.role),
                content=message.text,
                name=message.name or "",
            )
            if not message.is_plain:
                told.tool_call_id = message.tool_call_id or ""
                told.reasoning_content = message.reasoning_content or message.reasoning or ""
                told.tool_calls = _calls(message, index, None).decode()
        return [base.SerializeToString()]

    def _json(self, bulk: Bulk | None) -> tuple[bytes, bytes]:
        """The tools and the template's arguments; empty where there are none."""
        tools = b"" if self.tools is None else to_json(self.tools, bulk, "tools")
        arguments = dict(self.chat_template_kwargs or {})
        if self.reasoning_effort is not None:
            arguments.setdefault("reasoning_effort", self.reasoning_effort)
        if not arguments:
            return tools, b""
        return tools, to_json(arguments, bulk, "chat_template_kwargs")

    def _chat(self, bulk: Bulk) -> list[bytes]:
        """The same messages, serialized one by one: their texts are never strings of Python."""
        of_chat, of_message = worker_pb2.Chat, worker_pb2.ChatMessage
        tools, arguments = self._json(bulk)
        parts: list[bytes] = []
        for index, message in enumerate(self.messages):
            where = f"messages.{index}"
            fields = {
                of_message.CONTENT_FIELD_NUMBER: ("content", message.text),
                of_message.NAME_FIELD_NUMBER: ("name", message.name),
                of_message.TOOL_CALL_ID_FIELD_NUMBER: ("tool_call_id", message.tool_call_id),
                of_message.REASONING_CONTENT_FIELD_NUMBER: (
                    "reasoning_content",
                    message.reasoning_content or message.reasoning,
                ),
            }
            header = worker_pb2.ChatMessage(role=ROLES.get(message.role, message.role))
            told = [header.SerializeToString()]
            for number, (name, text) in fields.items():
                if text or number == of_message.CONTENT_FIELD_NUMBER:
                    told += nested(number, [utf8_of(text or "", bulk, f"{where}.{name}")])
            if message.tool_calls:
                calls = _calls(message, index, bulk)
                told += nested(of_message.TOOL_CALLS_FIELD_NUMBER, [calls])
            parts += nested(of_chat.MESSAGES_FIELD_NUMBER, told)
        parts += nested(of_chat.TOOLS_FIELD_NUMBER, [tools])
        parts += nested(of_chat.TEMPLATE_ARGUMENTS_FIELD_NUMBER, [arguments])
        return nested(worker_pb2.GenerateRequest.CHAT_FIELD_NUMBER, parts)


def _calls(message: Message, index: int, bulk: Bulk | None) -> bytes:
    if not message.tool_calls:
        return b""
    return to_json(message.tool_calls, bulk, f"messages.{index}.tool_calls")

"""Chats of requests: what their JSON holds, checked, and what their answers have to be."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from modelfleet_proto import worker_pb2 as pb

from ..errors import InvalidRequestError
from ..text.output.parser import OutputParser
from ..text.tokenizer import ROLES, Chat, Message

MAX_TOOLS = 1024
MAX_CALLS = 1024  # of one message
_NAME = re.compile(r"[^\s\"'<>(){}\[\]\\,=\x00-\x1f]{1,128}")
_SHOWN = 40  # characters of what is wrong

NewParser = Callable[[], OutputParser]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """Whether the answer may, must or must not be calls."""

    required: bool = False
    name: str = ""  # of the tool that must be called
    single: bool = False  # one call at most


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPrompt:
    """Goes through the model's chat template."""

    chat: Chat
    choice: ToolChoice = ToolChoice()
    strict: frozenset[str] = frozenset()  # tools whose calls are held to their schemas
    takes_parts: bool = False

    @property
    def tools(self) -> Mapping[str, Mapping[str, Any]]:
        """The schema of the parameters, by name, of those that may be called."""
        return {tool["function"]["name"]: parameters_of(tool) for tool in self.chat.tools or ()}


def read_chat(asked: pb.Chat, created: float) -> ChatPrompt:
    """Raises InvalidRequestError for the first field that is wrong."""
    if not asked.messages:
        raise InvalidRequestError("chat.messages is empty: expected at least one message")
    tools, strict = _read_tools(asked.tools) if asked.tools else (None, frozenset[str]())
    choice = asked.tool_choice
    if choice.mode == pb.ToolChoice.NONE and tools:
        tools = None  # a model that is shown no tools calls none
    if choice.mode == pb.ToolChoice.REQUIRED:
        names = [tool["function"]["name"] for tool in tools or ()]
        if not names or (choice.name and choice.name not in names):
            found = ", ".join(names)[:200] or "none"
            raise InvalidRequestError(
                f"chat.tool_choice asks for a call of {choice.name or 'a tool'!r}, but the tools"
                f" are: {found}"
            )
    return ChatPrompt(
        chat=Chat(
            messages=tuple(_read_message(m, number) for number, m in enumerate(asked.messages)),
            add_generation_prompt=asked.add_generation_prompt,
            created=created,
            tools=tools,
            arguments=_object(asked.template_arguments, "chat.template_arguments"),
        ),
        choice=ToolChoice(
            required=choice.mode == pb.ToolChoice.REQUIRED,
            name=choice.name,
            single=choice.single or bool(choice.name),
        ),
        strict=strict if tools else frozenset(),
        takes_parts=asked.takes_parts or bool(tools),
    )


def parameters_of(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a tool's parameters; a tool without one takes any."""
    return {"type": "object"} | (tool["function"].get("parameters") or {})


def _read_message(message: pb.ChatMessage, number: int) -> Message:
    where = f"chat.messages[{number}]"
    if message.role not in ROLES:
        raise InvalidRequestError(
            f"{where}.role must be one of {', '.join(sorted(ROLES))}, "
            f"found {message.role[:_SHOWN]!r}"
        )
    calls: tuple[Any, ...] = ()
    if message.tool_calls:
        calls = tuple(_list(message.tool_calls, f"{where}.tool_calls", MAX_CALLS))
        for call in calls:
            function = call.get("function") if isinstance(call, dict) else None
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                raise InvalidRequestError(f"{where}.tool_calls has a call without a name")
    return Message(
        message.role,
        message.content,
        message.name,
        tool_calls=calls,
        tool_call_id=message.tool_call_id,
        reasoning=message.reasoning_content,
    )


def _read_tools(text: str) -> tuple[tuple[Mapping[str, Any], ...], frozenset[str]]:
    """The tools, and the names of those that are strict: that is nothing for a model to read."""
    tools = tuple(_list(text, "chat.tools", MAX_TOOLS))
    names: set[str] = set()
    strict: set[str] = set()
    for number, tool in enumerate(tools):
        where = f"chat.tools[{number}]"
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidRequestError(f"{where} is no function with a name")
        if name in names:
            raise InvalidRequestError(f"{where} has the name {name!r}, as another one has")
        names.add(name)
        parameters = tool["function"].get("parameters")
        if parameters is not None and not isinstance(parameters, dict):
            raise InvalidRequestError(f"{where}.function.parameters is no JSON schema")
        if tool["function"].pop("strict", None):
            strict.add(name)
    return tools, frozenset(strict)


def _list(text: str, where: str, most: int) -> list[Any]:
    value = _parsed(text, where)
    if not isinstance(value, list):
        raise InvalidRequestError(f"{where} is no list")
    if len(value) > most:
        raise InvalidRequestError(f"{where} has more than {most} entries")
    return value


def _object(text: str, where: str) -> Mapping[str, Any] | None:
    if not text:
        return None
    value = _parsed(text, where)
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{where} is no object")
    return value


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{where} is no JSON: {str(error)[:100]}") from None

"""Content blocks as the messages of a chat."""

from __future__ import annotations

from typing import Any, Final

from ..errors import InvalidRequestError, UnsupportedFieldError
from ..openai_api.answer import Json
from ..openai_api.bulk import Bulk
from ..openai_api.translated import (
    Part,
    dumped,
    joined,
    read_part,
    text_part,
    text_parts,
    unsupported_value,
)

TEXTS: Final = {"text": "text"}
EXPECTED: Final = "text"
USERS: Final = "text or tool_result"
ASSISTANTS: Final = "text, thinking or tool_use"


class Message(Part):
    """A message."""

    role: str
    content: Any


class ToolUse(Part):
    """`tool_use`: a call that the assistant made."""

    id: str
    name: str
    input: dict[str, Any]


class ToolResult(Part):
    """`tool_result`: what came of a call."""

    tool_use_id: str
    content: Any = None


class Thinking(Part):
    """`thinking`: what the assistant thought."""

    thinking: str


def messages_of(messages: list[Any], bulk: Bulk | None) -> list[Json]:
    """The chat's messages: results of tools are messages of their own there."""
    chat: list[Json] = []
    for index, value in enumerate(messages):
        where = f"messages.{index}"
        message = read_part(Message, value, where, bulk)
        content = message.content
        if not isinstance(content, str | list):
            raise InvalidRequestError(
                f"Invalid '{where}.content': Expected a string or a list of blocks.",
                param=f"{where}.content",
            )
        if message.role == "assistant":
            chat.append(_assistant(content, f"{where}.content", bulk))
        elif message.role == "user":
            chat += _user(content, f"{where}.content", bulk)
        elif message.role == "system":
            content = text_parts(content, f"{where}.content", TEXTS, EXPECTED)
            chat.append({"role": "system", "content": content})
        else:
            raise unsupported_value(f"{where}.role", message.role, "user or assistant")
    if chat and chat[-1]["role"] == "assistant":
        raise UnsupportedFieldError(
            "The last message is the assistant's: to go on with it is not supported here.",
            param=f"messages.{len(messages) - 1}",
        )
    return chat


def _user(content: str | list[Any], where: str, bulk: Bulk | None) -> list[Json]:
    """Results first: a chat has them right after the calls."""
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    results: list[Json] = []
    texts: list[Json] = []
    for index, block in enumerate(content):
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "tool_result":
            result = read_part(ToolResult, block, f"{where}.{index}", bulk)
            blocks = "" if result.content is None else result.content
            text = joined(text_parts(blocks, f"{where}.{index}.content", TEXTS, EXPECTED))
            results.append({"role": "tool", "tool_call_id": result.tool_use_id, "content": text})
        else:
            texts.append(text_part(block, f"{where}.{index}", TEXTS, USERS))
    if texts or not results:
        return [*results, {"role": "user", "content": texts or ""}]
    return results


def _assistant(content: str | list[Any], where: str, bulk: Bulk | None) -> Json:
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    texts: list[Json] = []
    thoughts: list[str] = []
    calls: list[Json] = []
    for index, block in enumerate(content):
        at = f"{where}.{index}"
        match block.get("type") if isinstance(block, dict) else None:
            case "thinking":
                thoughts.append(read_part(Thinking, block, at, bulk).thinking)
            case "redacted_thinking":  # of somebody else: nobody here can read it
                pass
            case "tool_use":
                use = read_part(ToolUse, block, at, bulk)
                function = {"name": use.name, "arguments": dumped(use.input, bulk)}
                calls.append({"id": use.id, "type": "function", "function": function})
            case _:
                texts.append(text_part(block, at, TEXTS, ASSISTANTS))
    message: Json = {"role": "assistant", "content": joined(texts) if texts else None}
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    elif not texts:
        message["content"] = ""
    return message

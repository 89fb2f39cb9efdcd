"""Input items as the messages of a chat."""

from __future__ import annotations

import json
from typing import Any, Final

from ..errors import InvalidRequestError
from ..openai_api.answer import Json
from ..openai_api.bulk import Bulk
from ..openai_api.translated import Part, expanded, joined, read_part, text_parts, unsupported_value
from .replay import decode_reasoning

SERVED: Final = "message, function_call, function_call_output, reasoning or a custom tool's items"
TEXTS: Final = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
EXPECTED: Final = "input_text, output_text or refusal"
ROLES: Final = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


class Message(Part):
    """`message`."""

    role: str
    content: Any


class Call(Part):
    """`function_call`."""

    call_id: str
    name: str
    arguments: str


class CustomCall(Part):
    """`custom_tool_call`."""

    call_id: str
    name: str
    input: str


class CallOutput(Part):
    """`function_call_output` and `custom_tool_call_output`."""

    call_id: str
    output: Any


class ReasoningItem(Part):
    """`reasoning`."""

    content: list[Any] | None = None
    summary: list[Any] | None = None
    encrypted_content: str | None = None


def messages_of(items: str | list[Any], bulk: Bulk | None) -> list[Json]:
    """The messages that the items are; what an assistant did in one turn is one message."""
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    turns = Turns()
    for index, item in enumerate(items):
        turns.add(item, f"input.{index}", bulk)
    turns.close()
    return turns.messages


class Turns:
    """Messages so far, the last of which may be an assistant's that grows."""

    def __init__(self) -> None:
        self.messages: list[Json] = []
        self._reasoning: list[str] = []
        self._turn: Json | None = None  # an assistant's

    def add(self, item: Any, where: str, bulk: Bulk | None) -> None:
        """One more item; InvalidRequestError for one that is wrong, or not served."""
        if not isinstance(item, dict):
            raise InvalidRequestError(f"Invalid {where!r}: Expected an object.", param=where)
        kind = item.get("type", "message")
        if kind == "message":
            self._add_message(read_part(Message, item, where, bulk), where)
        elif kind == "function_call":
            call = read_part(Call, item, where, bulk)
            self._add_call(call.call_id, call.name, call.arguments)
        elif kind == "custom_tool_call":
            custom = read_part(CustomCall, item, where, bulk)
            arguments = json.dumps({"input": expanded(custom.input, bulk)}, ensure_ascii=False)
            self._add_call(custom.call_id, custom.name, arguments)
        elif kind in ("function_call_output", "custom_tool_call_output"):
            output = read_part(CallOutput, item, where, bulk)
            content = text_parts(output.output, f"{where}.output", TEXTS, EXPECTED)
            self.close()
            self.messages.append(
                {"role": "tool", "tool_call_id": output.call_id, "content": joined(content)}
            )
        elif kind == "reasoning":
            self._add_reasoning(read_part(ReasoningItem, item, where, bulk), where, bulk)
        else:
            raise unsupported_value(f"{where}.type", kind, SERVED)

    def close(self) -> None:
        """The assistant's turn is over."""
        if self._reasoning and self._turn is None:
            self._turn = {"role": "assistant", "content": None}
        if self._turn is not None:
            if self._reasoning:
                self._turn["reasoning_content"] = "\n".join(self._reasoning)
            if self._turn["content"] is None and not self._turn.get("tool_calls"):
                self._turn["content"] = ""
            self.messages.append(self._turn)
        self._turn, self._reasoning = None, []

    def _add_message(self, message: Message, where: str) -> None:
        if message.role not in ROLES:
            raise unsupported_value(f"{where}.role", message.role, ", ".join(ROLES))
        role = ROLES[message.role]
        content = text_parts(message.content, f"{where}.content", TEXTS, EXPECTED)
        if role != "assistant":
            self.close()
            self.messages.append({"role": role, "content": content})
            return
        if self._turn is not None and self._turn["content"] is not None:
            self.close()
        self._assistant()["content"] = joined(content)

    def _add_call(self, call_id: str, name: str, arguments: str) -> None:
        function = {"name": name, "arguments": arguments}
        calls = self._assistant().setdefault("tool_calls", [])
        calls.append({"id": call_id, "type": "function", "function": function})

    def _add_reasoning(self, item: ReasoningItem, where: str, bulk: Bulk | None) -> None:
        """Its text, else what it is in our encoding, else its summary."""
        texts = {"reasoning_text": "text", "summary_text": "text", "text": "text"}
        if self._turn is not None:
            self.close()
        encoded = decode_reasoning(expanded(item.encrypted_content or "", bulk))
        if encoded and not item.content:
            self._reasoning.append(encoded)
            return
        field = "content" if item.content else "summary"
        parts = text_parts(getattr(item, field) or [], f"{where}.{field}", texts, "reasoning_text")
        if parts:
            self._reasoning.append(joined(parts))

    def _assistant(self) -> Json:
        if self._turn is None:
            self._turn = {"role": "assistant", "content": None}
        return self._turn

"""The items of an output, each with the events of its life."""

from __future__ import annotations

import json
import uuid
from abc import ABC, abstractmethod
from typing import ClassVar

from typing_extensions import override

from ..openai_api.answer import Json
from .replay import encode_reasoning


class Item(ABC):
    """One item: opened, added to, closed. `events` gets what a stream says about it."""

    prefix: ClassVar[str]

    def __init__(self, index: int) -> None:
        self.id = self.prefix + uuid.uuid4().hex
        self._status = "in_progress"
        self._where: Json = {"item_id": self.id, "output_index": index}

    @abstractmethod
    def body(self) -> Json:
        """The item as of now."""

    def open(self, events: list[Json]) -> None:
        """It begins."""
        index = self._where["output_index"]
        events.append(
            {"type": "response.output_item.added", "output_index": index, "item": self.body()}
        )

    def close(self, status: str, events: list[Json]) -> None:
        """It ends, `completed` or `incomplete`."""
        self._status = status
        index = self._where["output_index"]
        events.append(
            {"type": "response.output_item.done", "output_index": index, "item": self.body()}
        )

    def _event(self, kind: str, **fields: object) -> Json:
        return {"type": f"response.{kind}", **self._where, **fields}


class MessageItem(Item):
    """A message of the assistant: text."""

    prefix = "msg_"

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self._texts: list[str] = []
        self._logprobs: list[Json] = []
        self._is_open = False

    @override
    def body(self) -> Json:
        return {
            "id": self.id,
            "type": "message",
            "status": self._status,
            "role": "assistant",
            "content": [self._part()] if self._is_open else [],
        }

    @override
    def open(self, events: list[Json]) -> None:
        super().open(events)
        self._is_open = True
        events.append(self._event("content_part.added", content_index=0, part=self._part()))

    def add(self, text: str, logprobs: list[Json], events: list[Json]) -> None:
        """More text."""
        self._texts.append(text)
        self._logprobs += logprobs
        events.append(
            self._event("output_text.delta", content_index=0, delta=text, logprobs=logprobs)
        )

    @override
    def close(self, status: str, events: list[Json]) -> None:
        part = self._part()
        done = {"text": part["text"], "logprobs": self._logprobs}
        events.append(self._event("output_text.done", content_index=0, **done))
        events.append(self._event("content_part.done", content_index=0, part=part))
        super().close(status, events)

    def _part(self) -> Json:
        return {
            "type": "output_text",
            "text": "".join(self._texts),
            "annotations": [],
            "logprobs": list(self._logprobs),
        }


class ReasoningItem(Item):
    """What the model thought before it answered."""

    prefix = "rs_"

    def __init__(self, index: int, *, is_encoded: bool = False) -> None:
        super().__init__(index)
        self._is_encoded = is_encoded  # once more, for clients that send only that back
        self._texts: list[str] = []
        self._is_open = False

    @override
    def body(self) -> Json:
        is_told = self._is_encoded and self._status != "in_progress"
        return {
            "id": self.id,
            "type": "reasoning",
            "status": self._status,
            "summary": [],
            "content": [self._part()] if self._is_open else [],
            "encrypted_content": encode_reasoning("".join(self._texts)) if is_told else None,
        }

    @override
    def open(self, events: list[Json]) -> None:
        super().open(events)
        self._is_open = True
        events.append(self._event("content_part.added", content_index=0, part=self._part()))

    def add(self, text: str, events: list[Json]) -> None:
        """More of it."""
        self._texts.append(text)
        events.append(self._event("reasoning_text.delta", content_index=0, delta=text))

    @override
    def close(self, status: str, events: list[Json]) -> None:
        part = self._part()
        events.append(self._event("reasoning_text.done", content_index=0, text=part["text"]))
        events.append(self._event("content_part.done", content_index=0, part=part))
        super().close(status, events)

    def _part(self) -> Json:
        return {"type": "reasoning_text", "text": "".join(self._texts)}


class FunctionCallItem(Item):
    """A call of a function."""

    prefix = "fc_"

    def __init__(self, index: int, name: str) -> None:
        super().__init__(index)
        self._name = name
        self._call_id = f"call_{uuid.uuid4().hex[:24]}"
        self._arguments: list[str] = []

    @override
    def body(self) -> Json:
        return {
            "id": self.id,
            "type": "function_call",
            "status": self._status,
            "call_id": self._call_id,
            "name": self._name,
            "arguments": "".join(self._arguments),
        }

    def add(self, arguments: str, events: list[Json]) -> None:
        """More of its arguments."""
        self._arguments.append(arguments)
        events.append(self._event("function_call_arguments.delta", delta=arguments))

    @override
    def close(self, status: str, events: list[Json]) -> None:
        arguments = "".join(self._arguments)
        events.append(
            self._event("function_call_arguments.done", name=self._name, arguments=arguments)
        )
        super().close(status, events)


class CustomCallItem(FunctionCallItem):
    """A call of a custom tool: the one string that its arguments have, told when it is whole."""

    prefix = "ctc_"

    @override
    def body(self) -> Json:
        return {
            "id": self.id,
            "type": "custom_tool_call",
            "status": self._status,
            "call_id": self._call_id,
            "name": self._name,
            "input": self._input() if self._status != "in_progress" else "",
        }

    @override
    def add(self, arguments: str, events: list[Json]) -> None:
        self._arguments.append(arguments)

    @override
    def close(self, status: str, events: list[Json]) -> None:
        text = self._input()
        if text:
            events.append(self._event("custom_tool_call_input.delta", delta=text))
        events.append(self._event("custom_tool_call_input.done", input=text))
        Item.close(self, status, events)

    def _input(self) -> str:
        """What the model wrote, if it is not the JSON that was asked for."""
        written = "".join(self._arguments)
        try:
            text = json.loads(written)["input"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return written
        return text if isinstance(text, str) else written

"""`/v1/responses`: its requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

import pydantic
from pydantic import Field
from pydantic_core import PydanticCustomError
from typing_extensions import override

from ..openai_api.answer import Json
from ..openai_api.bulk import Bulk
from ..openai_api.fields import MAX_TOP_LOGPROBS, UINT32, Neutral
from ..openai_api.translated import AnsweredRequest, Part, Text, TranslatedRequest, expanded
from .answer import ResponsesAnswer
from .items import messages_of
from .tools import chat_tools

ENCODED_REASONING: Final = "reasoning.encrypted_content"
LOGPROBS: Final = "message.output_text.logprobs"
MAX_METADATA: Final = 16
# Chats have these by the same names.
SAME: Final = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "seed",
    "stop",
    "stop_token_ids",
    "ignore_eos",
)


class Reasoning(Part):
    """How much is thought. A summary is never made: the reasoning itself is in the output."""

    effort: str | None = None


class Format(Part):
    """What the text is held to."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None

    @pydantic.model_validator(mode="after")
    def _is_whole(self) -> Format:
        if self.type == "json_schema" and (self.name is None or self.schema_ is None):
            raise PydanticCustomError("format", "A json_schema needs 'name' and 'schema'")
        return self


class TextConfig(Part):
    """What the text is like."""

    format: Format | None = None


class InputFields(TranslatedRequest):
    """What a request says about its prompt."""

    unsupported: ClassVar[Neutral] = {
        "background": (None, False),
        "context_management": (None, []),
        "conversation": (None,),
        "prompt": (None,),
        "truncation": (None, "disabled"),
    }
    names: ClassVar[Mapping[str, str]] = {
        "max_completion_tokens": "max_output_tokens",
        "messages": "input",
        "reasoning_effort": "reasoning.effort",
        "response_format": "text.format",
        "response_format.json_schema": "text.format",
    }

    input: str | list[Any] | None = None
    instructions: str | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    text: TextConfig | None = None
    previous_response_id: str | None = None

    # Messages before the input; set when an answer that was kept goes on.
    _history: list[Json] = pydantic.PrivateAttr(default_factory=list)

    @pydantic.field_validator("input", mode="before")
    @classmethod
    def _is_text_or_items(cls, value: Any) -> Any:
        if not isinstance(value, str | list | None):
            raise PydanticCustomError("input", "Expected a string or a list of items")
        if isinstance(value, list) and not value:
            raise PydanticCustomError("input", "Expected at least one item")
        return value

    def go_on_after(self, messages: list[Json]) -> None:
        """These messages come before its input."""
        self._history = messages

    def own_messages(self, bulk: Bulk | None) -> list[Json]:
        """The messages of its input alone."""
        return messages_of(self.input if self.input is not None else [], bulk)

    @override
    def translate(self, bulk: Bulk | None) -> Json:
        own = self.own_messages(bulk)
        if not own and not self._history:
            own = [{"role": "user", "content": ""}]  # instructions alone
        chat: Json = {"messages": _led_by(self.instructions, [*self._history, *own])}
        tools, choice = chat_tools(self.tools or [], self.tool_choice, bulk)
        if tools:
            chat |= {"tools": tools}
            if choice is not None:
                chat |= {"tool_choice": choice}
            if self.parallel_tool_calls is not None:
                chat |= {"parallel_tool_calls": self.parallel_tool_calls}
        if self.reasoning is not None and self.reasoning.effort is not None:
            chat |= {"reasoning_effort": expanded(self.reasoning.effort, bulk)}
        asked = self.text.format if self.text is not None else None
        if asked is not None and asked.type == "json_schema":
            schema = {"name": asked.name, "schema": expanded(asked.schema_, bulk)}
            if asked.strict is not None:
                schema["strict"] = asked.strict
            chat |= {"response_format": {"type": "json_schema", "json_schema": schema}}
        elif asked is not None:
            chat |= {"response_format": {"type": asked.type}}
        return chat


class ResponsesRequest(InputFields, AnsweredRequest):
    """The body of a request for a response."""

    # The order of fields is the order of checks.
    max_output_tokens: Annotated[int, Field(ge=1, le=UINT32)] | None = None
    max_tool_calls: int | None = None  # of built-in tools, of which there are none
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    include: list[Text] | None = None
    metadata: dict[str, Text] | None = None
    store: bool | None = None

    # What keeps the answer, given its messages, if it is to be kept.
    _keep: Callable[[str, list[Json]], None] | None = pydantic.PrivateAttr(default=None)
    shown: ClassVar[tuple[str, ...]] = (
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "presence_penalty",
        "frequency_penalty",
        "temperature",
        "top_p",
    )

    @pydantic.model_validator(mode="after")
    def _is_asked_something(self) -> ResponsesRequest:
        if self.input is None and self.instructions is None and self.previous_response_id is None:
            raise PydanticCustomError("input", "Missing required parameter: 'input'")
        if self.metadata is not None and len(self.metadata) > MAX_METADATA:
            raise PydanticCustomError(
                "metadata", "At most {limit} keys are supported", {"limit": MAX_METADATA}
            )
        return self

    def keep_with(self, keep: Callable[[str, list[Json]], None]) -> None:
        """What is given the answer's id and messages when it is whole."""
        self._keep = keep

    @property
    def wants_logprobs(self) -> bool:
        """Whether the output says how likely its tokens were."""
        return LOGPROBS in (self.include or ()) or bool(self.top_logprobs)

    @override
    def translate(self, bulk: Bulk | None) -> Json:
        extra = self.model_extra or {}
        chat = super().translate(bulk)
        chat |= {name: extra[name] for name in SAME if name in extra}
        if self.max_output_tokens is not None:
            chat |= {"max_completion_tokens": self.max_output_tokens}
        if self.wants_logprobs:
            chat |= {"logprobs": True, "top_logprobs": self.top_logprobs or 0}
        return chat

    @override
    def new_answer(self, created: float, bulk: Bulk | None) -> ResponsesAnswer:
        return ResponsesAnswer(
            model=expanded(self.model, bulk),
            created=created,
            said=expanded(self._shown_again(), bulk),
            custom_tools=frozenset(
                tool["name"] for tool in self.tools or [] if tool.get("type") == "custom"
            ),
            encodes_reasoning=ENCODED_REASONING in (self.include or ()),
            keep=self._keep,
        )

    def _shown_again(self) -> Json:
        """What the response repeats of its request; the API's defaults for what was not said."""
        extra = self.model_extra or {}
        shown: dict[str, Any] = {name: extra.get(name) for name in self.shown}
        for name, default in (
            ("temperature", 1.0),
            ("top_p", 1.0),
            ("presence_penalty", 0.0),
            ("frequency_penalty", 0.0),
        ):
            shown[name] = default if shown[name] is None else shown[name]
        effort = self.reasoning.effort if self.reasoning is not None else None
        asked = self.text.format if self.text is not None else None
        text = {"type": "text"}
        if asked is not None:
            text = asked.model_dump(by_alias=True, exclude_none=True)
        return shown | {
            "background": False,
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "max_tool_calls": self.max_tool_calls,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "previous_response_id": self.previous_response_id,
            "reasoning": {"effort": effort, "summary": None},
            "service_tier": "flex" if extra.get("service_tier") == "flex" else "default",
            "store": self._keep is not None,
            "text": {"format": text},
            "tool_choice": "auto" if self.tool_choice is None else self.tool_choice,
            "tools": [_shown_tool(tool) for tool in self.tools or []],
            "top_logprobs": self.top_logprobs or 0,
            "truncation": "disabled",
        }


def _shown_tool(tool: Json) -> Json:
    if tool.get("type") != "function":
        return tool
    return {"description": None, "parameters": None, "strict": False} | tool


def _led_by(instructions: str | None, messages: list[Json]) -> list[Json]:
    """With the instructions first, in one message with the system's that begin the input.

    Many chat templates take one system message, and only as the first.
    """
    leading = [] if instructions is None else [{"type": "text", "text": instructions}]
    rest = messages
    while rest and rest[0]["role"] == "system":
        content = rest[0]["content"]
        leading += [{"type": "text", "text": content}] if isinstance(content, str) else content
        rest = rest[1:]
    if not leading:
        return messages
    if not rest:  # a prompt needs more than its system message
        rest = [{"role": "user", "content": ""}] if instructions is None else rest
    return [{"role": "system", "content": leading}, *rest]

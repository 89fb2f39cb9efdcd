"""The style in which a model writes answers: named, or what its chat template and config show."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from . import harmony
from .formats import CallFormat, DeepSeekCalls, JsonCalls, LlamaCalls, MistralCalls
from .gemma_calls import GemmaCalls
from .python_calls import PythonCalls
from .tag_calls import TagCalls


@dataclass(frozen=True, slots=True)
class Tags:
    """What stands around a reasoning."""

    open: str
    close: str

    def is_open(self, prompt: str) -> bool:
        """Whether the prompt has opened it."""
        return prompt.rstrip().endswith(self.open.rstrip())


@dataclass(frozen=True)
class OutputStyle:
    """How a model writes calls and reasoning; with none of them, an answer is text."""

    tools: str = "None"  # the name of the format of calls
    calls: CallFormat | None = None
    reasoning: Tags | None = None
    is_harmony: bool = False
    template: Mapping[str, Any] | None = None  # the checkpoint's own response_template

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """Texts that may be special tokens: a parser has to see them."""
        if self.is_harmony:
            return harmony.MARKS
        calls = () if self.calls is None else self.calls.marks
        around = () if self.reasoning is None else (self.reasoning.open, self.reasoning.close)
        return (*calls, *around)

    def is_mark(self, token: str) -> bool:
        """Whether a parser has to see this special token."""
        if self.template is not None:
            return token in json.dumps(self.template, ensure_ascii=False).replace("\\", "")
        return any(token in mark for mark in self.marks)

    @property
    def reasons(self) -> bool:
        """Whether each answer has to be parsed, with tools or without."""
        return self.reasoning is not None or self.is_harmony or self.template is not None

    @property
    def writes_calls(self) -> bool:
        """Whether it is known how the model writes calls."""
        return self.calls is not None or self.is_harmony or _has_calls(self.template)


def _has_calls(template: Mapping[str, Any] | None) -> bool:
    return template is not None and "tool_calls" in template.get("fields", {})


PLAIN: Final = OutputStyle()
THINK: Final = Tags("<think>", "</think>")

# By name, as the spec and docs/tools.md have them; in the order in which templates are looked at.
TOOL_FORMATS: Final[Mapping[str, tuple[Callable[[], CallFormat], tuple[str, ...]]]] = {
    # name: how it is made, and marks that a template in this format has, all of them
    "Gemma": (GemmaCalls, ("<|tool_call>",)),
    "DeepSeekV3": (
        lambda: DeepSeekCalls(fence=True),
        ("<\uff5ctool▁calls▁begin\uff5c>", "```json"),
    ),
    "DeepSeekV31": (lambda: DeepSeekCalls(fence=False), ("<\uff5ctool▁calls▁begin\uff5c>",)),
    "Mistral": (lambda: MistralCalls(listed=False), ("[TOOL_CALLS]", "[ARGS]")),
    "MistralList": (lambda: MistralCalls(listed=True), ("[TOOL_CALLS]",)),
    "QwenCoder": (lambda: TagCalls(functions=True), ("<function=",)),
    "Hermes": (lambda: TagCalls(functions=False), ("<tool_call>",)),
    "Granite": (lambda: JsonCalls(("<|tool_call|>",)), ("<|tool_call|>",)),
    "Liquid": (
        lambda: PythonCalls("<|tool_call_start|>", "<|tool_call_end|>"),
        ("<|tool_call_start|>",),
    ),
    "Llama": (LlamaCalls, ("<|python_tag|>",)),
    "Pythonic": (lambda: PythonCalls("<|python_start|>", "<|python_end|>"), ("<|python_start|>",)),
}
HARMONY: Final = "Harmony"
_REASONING: Final[Mapping[str, Tags]] = {
    "Think": THINK,
    "Mistral": Tags("[THINK]", "[/THINK]"),
    "Gemma": Tags("<|channel>thought\n", "<channel|>"),
}
# Templates of these lack the marks: they show calls of earlier turns as JSON only.
_BY_MODEL_TYPE: Final = {"llama4": "Pythonic", "llama4_text": "Pythonic"}
AUTO: Final = "Auto"
NONE: Final = "None"
TOOL_PARSERS: Final = (AUTO, NONE, *TOOL_FORMATS, HARMONY)
REASONING_PARSERS: Final = (AUTO, NONE, *_REASONING)


def find_style(
    chat_template: str,
    model_type: str = "",
    *,
    response_template: Mapping[str, Any] | None = None,
    tool_parser: str = AUTO,
    reasoning_parser: str = AUTO,
) -> OutputStyle:
    """What the spec names; else the checkpoint's own; else what the template shows."""
    named = tool_parser != AUTO or reasoning_parser != AUTO
    if response_template is not None and not named:
        return OutputStyle(tools="ResponseTemplate", template=response_template)
    tools = _tools(chat_template, model_type) if tool_parser == AUTO else tool_parser
    if tools == HARMONY:
        return OutputStyle(tools=HARMONY, is_harmony=True)
    made = TOOL_FORMATS.get(tools)
    return OutputStyle(
        tools=tools,
        calls=None if made is None else made[0](),
        reasoning=_reasoning(chat_template, reasoning_parser),
    )


def _tools(template: str, model_type: str) -> str:
    if model_type == "gpt_oss" or all(m in template for m in (harmony.CHANNEL, harmony.MESSAGE)):
        return HARMONY
    if model_type in _BY_MODEL_TYPE:
        return _BY_MODEL_TYPE[model_type]
    for name, (_, marks) in TOOL_FORMATS.items():
        if all(mark in template for mark in marks):
            return name
    # Llama 3.2's own prompt asks for it in words.
    return "Llama" if '"parameters"' in template and "tools" in template else NONE


def _reasoning(template: str, parser: str) -> Tags | None:
    if parser != AUTO:
        return _REASONING.get(parser)
    found = (tags for tags in _REASONING.values() if tags.close in template)
    return next(found, None)

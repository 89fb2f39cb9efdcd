"""Answers of checkpoints that say themselves how to read them: in a `response_template`.

Its format and its parser are transformers'. The module is imported only for such a checkpoint: it
needs no torch, but importing it takes a while.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from transformers.utils.chat_parsing.content_parsers import process_field
from transformers.utils.chat_parsing.response_parser import ResponseParser
from transformers.utils.chat_parsing.response_templates import (
    ResponseTemplate,
    load_response_template,
)

from ...errors import ModelError
from .formats import Tools
from .json_values import to_json
from .parts import Part, Parts
from .reader import Reader
from .typed_values import cast, parameter, types_of

REASONING = frozenset({"reasoning_content", "thinking", "reasoning"})
_CONTENT, _CALLS = "content", "tool_calls"


def check_template(template: Mapping[str, Any]) -> None:
    """Raises ModelError for one that transformers cannot read."""
    try:
        load_response_template(dict(template))
    except ValueError as error:
        raise ModelError(f"the checkpoint's response_template is wrong: {error}") from error


@lru_cache(maxsize=4)
def _loaded(template: str) -> tuple[ResponseTemplate, ResponseTemplate]:
    """As it is, and with the texts of calls left as they are.

    The parser raises for a call that it cannot read, in the middle of an answer: so it only finds
    where calls begin and end.
    """
    import json

    whole = load_response_template(json.loads(template))
    fields = dict(whole.fields)
    if (calls := fields.get(_CALLS)) is not None:
        groups = set(calls.open_re.groupindex) if calls.open_re is not None else set()
        groups |= set(calls.close_re.groupindex) if calls.close_re is not None else set()
        captured = {name: f"{{{name}}}" for name in groups}
        fields[_CALLS] = replace(
            calls,
            content="text",
            content_args={"strip": False},
            transform={"captured": captured, "content": "{content}"},
            transform_each=False,
            join=None,
            repeats=True,
        )
    fields = {name: replace(field, optional=True) for name, field in fields.items()}
    return whole, replace(whole, fields=fields)


class TemplateParser:
    """By the checkpoint's own template."""

    def __init__(
        self,
        template: Mapping[str, Any],
        prompt: str,
        tools: Tools,
        hidden: frozenset[str],
        parts: Parts,
    ) -> None:
        self._whole, raw = _loaded(to_json(template))
        self._parser = ResponseParser(raw, prefix=prompt)
        self._tools, self._parts = tools, parts
        self._field = ""
        # Special tokens that the template reads, where it does not.
        self._reader = Reader()
        self._texts = self._reader.until(tuple(hidden), parts.text, again=False)
        self._hidden = tuple(hidden)

    @property
    def is_done(self) -> bool:
        """After the one call that was asked for."""
        return self._parts.is_full

    @property
    def failed_calls(self) -> int:
        """Calls that were none."""
        return self._parts.failed_calls

    def feed(self, text: str) -> list[Part]:
        """The parts that this text releases."""
        self._take(self._parser.feed(text))
        return self._parts.take()

    def close(self) -> list[Part]:
        """What was held back."""
        _, events = self._parser.finalize()
        self._take(events)
        self._reader.ended = True
        self._show("")
        self._parts.keep_space()
        return self._parts.take()

    def _take(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            field, kind = event["field"], event["type"]
            if kind == "region_chunk":
                if field == _CONTENT:
                    self._show(event["text"])
                elif field in REASONING:
                    self._parts.reasoning(event["text"])
            elif kind == "region_close":
                if field == _CALLS:
                    self._calls(event["value"])
                elif field in REASONING:
                    self._parts.end_block()

    def _show(self, text: str) -> None:
        """Text of the answer, without special tokens."""
        self._reader.add(text)
        while True:
            try:
                next(self._texts)
                return
            except StopIteration as end:
                if end.value is None:
                    return
                self._texts = self._reader.until(self._hidden, self._parts.text, again=False)

    def _calls(self, raw: dict[str, Any]) -> None:
        text = raw["content"]
        try:
            value = process_field(text, self._whole.fields[_CALLS], raw["captured"])
            calls = [self._call(each) for each in (value if isinstance(value, list) else [value])]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self._parts.given_up += 1
            opens = self._whole.fields[_CALLS].open_literals or [""]
            self._show(opens[0] + text)
            return
        for name, arguments in calls:
            self._parts.whole_call(name, arguments)

    def _call(self, value: Any) -> tuple[str, str]:
        """Raises ValueError, KeyError or TypeError."""
        function = value.get("function", value)
        name, arguments = function["name"], function.get("arguments") or {}
        if not isinstance(name, str) or not name:
            raise ValueError("a call without a name")
        if isinstance(arguments, str):
            return name, arguments
        if not isinstance(arguments, dict):
            raise TypeError("arguments are no object")
        schema = self._tools.get(name, {})
        return name, to_json(
            {
                key: cast(v, types_of(parameter(schema, key))) if isinstance(v, str) else v
                for key, v in arguments.items()
            }
        )

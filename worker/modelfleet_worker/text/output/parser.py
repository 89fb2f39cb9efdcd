"""Reads an answer into its parts while it comes, as its style says."""

from __future__ import annotations

from typing import Protocol

from .formats import Answering, CallFormat, Tools
from .harmony import read_messages
from .parts import Part, Parts
from .reader import MalformedError, Reader, Script
from .styles import OutputStyle, Tags


class OutputParser(Protocol):
    """Of one answer. Fed in any pieces, the parts of all of it are the same."""

    def feed(self, text: str) -> list[Part]:
        """The parts that this text releases."""
        ...

    def close(self) -> list[Part]:
        """What was held back, once no text follows."""
        ...

    @property
    def is_done(self) -> bool:
        """Whether what the model writes from here on is not wanted."""
        ...

    @property
    def failed_calls(self) -> int:
        """Calls that the model began and did not write as its format asks."""
        ...


def new_parser(
    style: OutputStyle,
    prompt: str,
    tools: Tools,
    *,
    hidden: frozenset[str] = frozenset(),
    single: bool = False,
) -> OutputParser:
    """For an answer to this prompt. `hidden`: marks that are special tokens; `single`: one call."""
    parts = Parts(single=single)
    if style.template is not None:
        from .response_template import TemplateParser

        return TemplateParser(style.template, prompt, tools, hidden, parts)
    return ScriptParser(style, prompt, tools, hidden, parts)


class ScriptParser:
    """By the scripts of our own formats."""

    def __init__(
        self,
        style: OutputStyle,
        prompt: str,
        tools: Tools,
        hidden: frozenset[str],
        parts: Parts,
    ) -> None:
        self._reader, self._parts = Reader(), parts
        answer = Answering(self._reader, parts, tools, hidden)
        if style.is_harmony:
            self._script = read_messages(answer)
        else:
            opened = style.reasoning is not None and style.reasoning.is_open(prompt)
            calls = style.calls if tools else None
            self._script = _read(answer, calls, style.reasoning, opened=opened)
        self._has_ended = False

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
        self._reader.add(text)
        self._go_on()
        return self._parts.take()

    def close(self) -> list[Part]:
        """What was held back."""
        self._reader.ended = True
        self._go_on()
        return self._parts.take()

    def _go_on(self) -> None:
        if not self._has_ended:
            try:
                next(self._script)
            except StopIteration:
                self._has_ended = True


def _read(
    answer: Answering, calls: CallFormat | None, tags: Tags | None, *, opened: bool
) -> Script[None]:
    """Reasoning, then text and calls."""
    reader, parts = answer.reader, answer.parts
    if tags is not None:
        yield from reader.space()
        if (yield from reader.take(tags.open)) or opened:
            if (yield from reader.until((tags.close,), parts.reasoning, again=False)) is None:
                return
            parts.end_block()
        else:
            reader.position = 0
    opens = () if calls is None else calls.opens
    strays = () if calls is None else tuple(answer.hidden.intersection(calls.others))
    if calls is not None and calls.bare:
        begin = reader.position
        yield from reader.space()
        if (yield from reader.peek()) in calls.bare and not reader.at_end:
            reader.position = begin
            yield from _call(answer, calls, "")
        else:
            reader.position = begin
    while True:
        mark = yield from reader.until((*opens, *strays), parts.text, again=False)
        if mark is None:
            parts.keep_space()
            return
        if calls is not None and mark in opens:
            yield from _call(answer, calls, mark)


def _call(answer: Answering, calls: CallFormat, mark: str) -> Script[None]:
    answer.begins(mark)
    try:
        yield from calls.calls(answer, mark)
    except MalformedError:
        answer.give_up()

"""The parts of an answer, in the order in which they come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum


class Kind(Enum):
    """What a part is."""

    TEXT = "text"
    REASONING = "reasoning"
    CALL = "call"


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an answer."""

    kind: Kind
    text: str  # of a call: more of the JSON of its arguments
    index: int = 0  # of the call in the answer
    name: str = ""  # of the tool, in the first part of its call


def merge(parts: Iterable[Part]) -> list[Part]:
    """The same parts, fewer: what goes on with the one before joins it."""
    merged: list[Part] = []
    for part in parts:
        last = merged[-1] if merged else None
        goes_on = last is not None and (last.kind, last.index) == (part.kind, part.index)
        if last is not None and goes_on and not part.name:
            merged[-1] = replace(last, text=last.text + part.text)
        else:
            merged.append(part)
    return merged


class Parts:
    """Collects them. Space at the end of a text waits: before a call or an end it is no text."""

    def __init__(self, *, single: bool = False) -> None:
        """`single`: what comes after the first call is no part of the answer."""
        self._single = single
        self.calls = 0  # that have begun
        self.whole_calls = 0  # that have ended, too
        self.given_up = 0  # calls whose beginning turned out to be text
        self._parts: list[Part] = []
        self._space = ""
        self._in_text = False  # it has text, so that space in front of more text counts

    @property
    def is_full(self) -> bool:
        """Whether nothing may follow."""
        return self._single and self.whole_calls > 0

    @property
    def failed_calls(self) -> int:
        """Calls that the model began and did not write as its format asks."""
        return self.given_up + self.calls - self.whole_calls

    def take(self) -> list[Part]:
        """What came since the last time."""
        parts, self._parts = merge(self._parts), []
        return parts

    def text(self, text: str) -> None:
        """More of the text."""
        self._add(Kind.TEXT, text)

    def reasoning(self, text: str) -> None:
        """More of the reasoning."""
        self._add(Kind.REASONING, text)

    def _add(self, kind: Kind, text: str) -> None:
        if self.is_full:
            return
        if not self._in_text:
            text = text.lstrip()
        stripped = text.rstrip()
        if not stripped:
            self._space += text
            return
        self._parts.append(Part(kind, self._space + stripped))
        self._space = text[len(stripped) :]
        self._in_text = True

    def end_block(self) -> None:
        """A reasoning or a text has ended: space around it is none of its text."""
        self._space, self._in_text = "", False

    def keep_space(self) -> None:
        """The answer ends in a text: its space is the model's."""
        if self._space and self._in_text:
            self._parts.append(Part(Kind.TEXT, self._space))
        self._space = ""

    def begin_call(self, name: str) -> None:
        """The next call."""
        if self.is_full:
            return
        self.end_block()
        self._parts.append(Part(Kind.CALL, "", self.calls, name))
        self.calls += 1

    def end_call(self) -> None:
        """The call that began last is whole."""
        self.whole_calls += 1

    def whole_call(self, name: str, arguments: str) -> None:
        """A call that came at once."""
        self.begin_call(name)
        self.arguments(arguments)
        self.end_call()

    def arguments(self, text: str) -> None:
        """More of the arguments of the call that began last."""
        if text and not self.is_full:
            self._parts.append(Part(Kind.CALL, text, self.calls - 1))

"""Reads a text that comes in pieces: scripts that wait for more where they need it.

A script is a generator that yields when it needs more text. So what it reads does not depend on how
the text was cut, as long as it uses what is here only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

Result = TypeVar("Result")
Script = Generator[None, None, Result]
Emit = Callable[[str], None]

_LONG = 4096  # characters that were read
_SPACE = re.compile(r"[ \t\r\n]*")


class MalformedError(Exception):
    """The text is not what the script expects."""


class EndError(MalformedError):
    """The text ended before."""


class Reader:
    """A text and how far it is read."""

    def __init__(self) -> None:
        self.buffer = ""
        self.position = 0
        self.ended = False

    def add(self, text: str) -> None:
        """More of it."""
        if text:
            self.buffer += text

    def since(self, position: int) -> str:
        """What was read from there on."""
        return self.buffer[position : self.position]

    def until(self, marks: Sequence[str], emit: Emit, *, again: bool = True) -> Script[str | None]:
        """Passes text on up to the first of the marks, and reads it; None: the text ended before.

        Of several at one place it is the longest; what may become a mark waits. `again`: what was
        read may be read again, so it is kept.
        """
        while True:
            found, start = _first(self.buffer, self.position, marks)
            hold = len(self.buffer) if self.ended else _held(self.buffer, self.position, marks)
            if found is not None and start < hold:
                self._pass(start, emit)
                self.position += len(found)
                return found
            self._pass(hold, emit)
            if self.ended:
                return None
            if not again:
                self.forget()
            yield

    def forget(self) -> None:
        """What was read is not read again, and positions so far mean nothing any more."""
        if self.position > _LONG:
            self.buffer, self.position = self.buffer[self.position :], 0

    def _pass(self, end: int, emit: Emit) -> None:
        if end > self.position:
            emit(self.buffer[self.position : end])
            self.position = end

    def collect(self, marks: Sequence[str], most: int = 256) -> Script[tuple[str, str]]:
        """The text before the first of the marks, and the mark. Raises MalformedError."""
        found: list[str] = []

        def keep(text: str) -> None:
            found.append(text)
            if sum(map(len, found)) > most:
                raise MalformedError

        begin = self.position
        try:
            mark = yield from self.until(marks, keep)
        except MalformedError:
            self.position = min(begin + most + 1, len(self.buffer))  # wherever the pieces ended
            raise
        if mark is None:
            raise EndError
        return "".join(found), mark

    def take(self, *literals: str) -> Script[str]:
        """Reads the first of the literals that comes next; else empty, and reads nothing."""
        while True:
            rest = self.buffer[self.position : self.position + max(map(len, literals))]
            longer = False
            for literal in literals:
                if rest.startswith(literal):
                    if longer and not self.ended:
                        break
                    self.position += len(literal)
                    return literal
                longer = longer or literal.startswith(rest)
            if not longer or self.ended:
                return ""
            yield

    def expect(self, *literals: str) -> Script[str]:
        """The literal that comes next. Raises MalformedError for anything else."""
        found = yield from self.take(*literals)
        if not found:
            raise EndError if self.at_end else MalformedError
        return found

    def peek(self) -> Script[str]:
        """The next character; empty at the end."""
        while self.position >= len(self.buffer) and not self.ended:
            yield
        return self.buffer[self.position : self.position + 1]

    def space(self) -> Script[None]:
        """Reads white space."""
        while True:
            self.position = _end(_SPACE, self.buffer, self.position)
            if self.position < len(self.buffer) or self.ended:
                return
            yield

    def matching(self, pattern: re.Pattern[str]) -> Script[str]:
        """All characters of a class; `pattern` is one with a star."""
        begin = self.position
        while True:
            self.position = _end(pattern, self.buffer, self.position)
            if self.position < len(self.buffer) or self.ended:
                return self.since(begin)
            yield

    @property
    def at_end(self) -> bool:
        """Whether nothing is left, now or later."""
        return self.ended and self.position >= len(self.buffer)


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return position if match is None else match.end()


def _first(text: str, position: int, marks: Sequence[str]) -> tuple[str | None, int]:
    best: tuple[int, int, str] | None = None
    for mark in marks:
        start = text.find(mark, position)
        if start >= 0 and (best is None or (start, -len(mark)) < best[:2]):
            best = (start, -len(mark), mark)
    return (None, len(text)) if best is None else (best[2], best[0])


def _held(text: str, position: int, marks: Sequence[str]) -> int:
    """Where what may become a mark begins."""
    longest = max(map(len, marks), default=1)
    for start in range(max(position, len(text) - longest + 1), len(text)):
        tail = text[start:]
        if any(mark.startswith(tail) and mark != tail for mark in marks):
            return start
    return len(text)

"""JSON that comes in pieces: checked character by character, and passed on as it comes."""

from __future__ import annotations

import json
import re
from typing import Any

from .reader import Emit, EndError, MalformedError, Reader, Script

_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_ESCAPED = frozenset('"\\/bfnrt')
_HEX = re.compile(r"[0-9a-fA-F]{4}")
_WORD = re.compile(r"[-+.0-9A-Za-z]*")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_DEEPEST = 64  # values within each other


def to_json(value: Any) -> str:
    """As arguments are written. Raises ValueError for numbers that JSON has not."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def json_value(reader: Reader, emit: Emit, *, again: bool = True) -> Script[None]:
    """Passes the next value on. Raises MalformedError where it stops being JSON.

    Control characters in strings, which models write, are escaped on the way. `again`: what was
    read may be read again.
    """
    closings: list[str] = []  # of the lists and objects that are open
    while True:
        yield from _space(reader, emit)
        character = yield from reader.peek()
        if character == '"':
            yield from _string(reader, emit, again=again)
        elif character in ("{", "[") and character:
            reader.position += 1
            emit(character)
            closing = "}" if character == "{" else "]"
            yield from _space(reader, emit)
            if (yield from reader.take(closing)):
                emit(closing)
            elif len(closings) == _DEEPEST:
                raise MalformedError
            else:
                closings.append(closing)
                if closing == "}":
                    yield from _key(reader, emit, again=again)
                continue
        else:
            yield from _word(reader, emit)
        while closings:
            yield from _space(reader, emit)
            found = yield from reader.expect(",", closings[-1])
            emit(found)
            if found == ",":
                break
            closings.pop()
        if not closings:
            return
        if closings[-1] == "}":
            yield from _space(reader, emit)
            yield from _key(reader, emit, again=again)
        if not again:
            reader.forget()


def whole_value(reader: Reader) -> Script[Any]:
    """The next value, once it is whole. Raises MalformedError."""
    pieces: list[str] = []
    yield from json_value(reader, pieces.append)
    try:
        return json.loads("".join(pieces))
    except (ValueError, RecursionError) as error:  # a number of thousands of digits
        raise MalformedError from error


def _word(reader: Reader, emit: Emit) -> Script[None]:
    """A number, or one of the three names."""
    word = yield from reader.matching(_WORD)
    if word not in ("true", "false", "null") and not _NUMBER.fullmatch(word):
        raise EndError if reader.at_end else MalformedError
    emit(word)


def _key(reader: Reader, emit: Emit, *, again: bool) -> Script[None]:
    if (yield from reader.peek()) != '"':
        raise EndError if reader.at_end else MalformedError
    yield from _string(reader, emit, again=again)
    yield from _space(reader, emit)
    emit((yield from reader.expect(":")))


def _space(reader: Reader, emit: Emit) -> Script[None]:
    begin = reader.position
    yield from reader.space()
    emit(reader.since(begin))


def _string(reader: Reader, emit: Emit, *, again: bool) -> Script[None]:
    yield from reader.expect('"')
    emit('"')
    while True:
        match = _PLAIN.match(reader.buffer, reader.position)
        if match is not None and match.end() > reader.position:
            reader.position = match.end()
            emit(match[0])
        if not again:
            reader.forget()
        character = yield from reader.peek()
        if not character:
            raise EndError
        if character == '"':
            reader.position += 1
            emit('"')
            return
        if character == "\\":
            emit((yield from _escape(reader)))
        elif character < " ":
            reader.position += 1
            emit(json.dumps(character)[1:-1])


def _escape(reader: Reader) -> Script[str]:
    """An escape, which is passed on whole; one that there is not stops being JSON."""
    begin, size = reader.position, 2
    while True:
        escape = reader.buffer[begin : begin + size]
        if size == 2 and escape[1:] == "u":
            size = 6
        elif len(escape) == size:
            break
        elif reader.ended:
            raise EndError
        else:
            yield
    is_known = escape[1] in _ESCAPED if size == 2 else bool(_HEX.fullmatch(escape[2:]))
    if not is_known:
        raise MalformedError
    reader.position += size
    return escape

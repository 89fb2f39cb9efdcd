"""Calls as Python writes them: `[name(key=value), ...]`."""

from __future__ import annotations

import ast
import keyword
import re
import unicodedata
from typing import Any, Final

from ...errors import InvalidRequestError
from .formats import Answering, CallFormat
from .json_values import to_json
from .reader import EndError, MalformedError, Reader, Script
from .rules import Rules, quoted
from .value_rules import Notation, ValueRules, length, limits_name

_NAME = re.compile(r"[\w.-]*")
_LONGEST_CALL = 65_536  # characters


# What a string may hold between these quotes, one character or escape at a time.
_CHARACTER: Final = r"""([^{quote}\\\x00-\x1F\x7F]|\\["'\\bfnrt])"""
_COMMA: Final = quoted(", ")
_KEY: Final = rf"/[A-Za-z_][A-Za-z0-9_]{{0,63}}/ & ~/__debug__|{'|'.join(keyword.kwlist)}/"


class PythonNotation(Notation):
    """Literals of Python."""

    true, false, null = "True", "False", "None"
    comma = _COMMA

    def string(self, rules: Rules, least: int, most: int | None) -> str:
        """In quotes of either kind."""
        names: list[str] = []
        for kind, quote in (("DOUBLE", '"'), ("SINGLE", "'")):
            body = _CHARACTER.format(quote=quote) + length(least, most)
            names.append(
                rules.define(f"{kind}_{limits_name(least, most)}", f"/{quote}{body}{quote}/")
            )
        return f"({' | '.join(names)})"

    def text(self, rules: Rules, value: str) -> str:
        """As JSON, whose escapes Python has, too."""
        return quoted(to_json(value))

    def key(self, rules: Rules, name: str) -> str:
        """A string."""
        return quoted(f"{to_json(name)}: ")

    def any_key(self, rules: Rules) -> str:
        """Any string."""
        return f'{self.string(rules, 0, None)} ": "'


_NOTATION: Final = PythonNotation()


def _written_call(rules: Rules, number: int) -> str:
    tool = rules.tools[number]
    if not _NAME.fullmatch(tool.name):
        raise InvalidRequestError(
            f"the tool {tool.name!r} has a name that no call in Python can have: calls of this"
            " model cannot be enforced with it"
        )
    values = ValueRules(rules, _NOTATION, tool)
    arguments = values.arguments(_argument, _any_argument(rules))
    return f"{quoted(tool.name + '(')} {arguments} {quoted(')')}"


def _argument(name: str) -> str:
    is_name = name.isidentifier() and not keyword.iskeyword(name) and name != "__debug__"
    if not is_name or unicodedata.normalize("NFKC", name) != name:
        raise InvalidRequestError(
            f"the parameter {name[:64]!r} of a tool is no name that an argument in Python can have:"
            " calls of this model cannot be enforced with it"
        )
    return quoted(f"{name}=")


def _any_argument(rules: Rules) -> str:
    return f'{rules.define("KEY", _KEY)} "="'


class PythonCalls(CallFormat):
    """`[name(key=value), ...]`, maybe between marks."""

    bare = "["

    def __init__(self, open: str = "", close: str = "") -> None:  # noqa: A002  as elsewhere
        self.opens = (open,) if open else ()
        self._close = close
        self.others = (close,) if close else ()
        self.bare = "" if open == "<|tool_call_start|>" else "["

    def calls(self, answer: Answering, mark: str) -> Script[None]:
        """All of the list; a call is passed on once it is whole."""
        reader = answer.reader
        yield from reader.space()
        yield from reader.expect("[")
        while True:
            yield from reader.space()
            name, arguments = yield from _python_call(reader)
            if name not in answer.tools:
                raise MalformedError
            answer.parts.whole_call(name, to_json(arguments))
            yield from reader.space()
            answer.begins()
            if (yield from reader.expect(",", "]")) == "]":
                break
        if self._close:
            yield from reader.space()
            yield from reader.take(self._close)

    def write(self, rules: Rules) -> None:
        """A list of calls, with the arguments by name."""
        calls = [_written_call(rules, number) for number in range(len(rules.tools))]
        rules.add(f"call: {' | '.join(calls)}")
        close = f" {rules.mark(self._close)}" if self._close and not self.bare else ""
        rules.add(f'rest: "[" {rules.repeated("call", _COMMA)} "]"{close}')


def _python_call(reader: Reader) -> Script[tuple[str, dict[str, Any]]]:
    begin = reader.position
    name = yield from reader.matching(_NAME)
    if not name or (yield from reader.peek()) != "(":
        raise EndError if reader.at_end else MalformedError
    yield from _brackets(reader)
    return name, _keywords(reader.since(begin)[len(name) :])


def _brackets(reader: Reader) -> Script[None]:
    """Up to the bracket that closes the next one; those in strings do not count."""
    begin, depth, quote = reader.position, 0, ""
    while True:
        character = yield from reader.peek()
        if not character:
            raise EndError
        reader.position += 1
        if reader.position - begin > _LONGEST_CALL:
            raise MalformedError
        if character == "\\" and quote:
            yield from reader.peek()
            reader.position += 1
        elif quote or character in "'\"":
            quote = ("" if character == quote else quote) if quote else character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if depth == 0:
                return


def _keywords(arguments: str) -> dict[str, Any]:
    """The arguments of a call, which all must have names, from `(key=value, ...)`."""
    try:
        call = ast.parse(f"f{arguments}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(not k.arg for k in call.keywords):
            raise MalformedError
        values = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        to_json(values)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise MalformedError from error
    return values

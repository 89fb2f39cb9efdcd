"""Formats whose arguments are not JSON: tags, Python's calls, Gemma's objects."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from ...errors import InvalidRequestError
from .formats import Answering, CallFormat, json_call, list_of_calls
from .reader import EndError, MalformedError, Reader, Script
from .rules import Rules, quoted
from .tagged_parameters import tagged_parameters
from .typed_values import cast, parameter, types_of

_NAME = re.compile(r"[\w.-]*")
_NO_GRAMMAR = (
    "this model writes {format}: calls in this format cannot be enforced, so that neither"
    " 'tool_choice': 'required' or a named tool nor 'strict': true is supported"
)
_LONGEST_CALL = 65_536  # characters of a call in Python


def to_json(value: Any) -> str:
    """As arguments are written."""
    return json.dumps(value, ensure_ascii=False)


class TagCalls(CallFormat):
    """`<tool_call>` and an object of JSON; or `<function=NAME>`, a tag for each parameter."""

    open, close = "<tool_call>", "</tool_call>"
    function, end = "<function=", "</function>"

    def __init__(self, *, functions: bool) -> None:
        """`functions`: they come without `<tool_call>`, too."""
        self.functions = functions
        self.opens = (self.open, self.function) if functions else (self.open,)
        self.others = (self.close,)

    def calls(self, answer: Answering, mark: str) -> Script[None]:
        """One call, or a list of JSON."""
        reader = answer.reader
        if mark == self.open:
            yield from reader.space()
            if not (yield from reader.take(self.function)):
                if (yield from reader.take("[")):
                    yield from list_of_calls(answer)
                else:
                    yield from json_call(answer, (self.close,))
                yield from reader.space()
                yield from reader.take(self.close)
                return
        name, _ = yield from reader.collect((">",))
        if not name.strip():
            raise MalformedError
        yield from self._parameters(answer, name.strip())
        answer.parts.end_call()
        yield from reader.space()
        yield from reader.take(self.close)

    def _parameters(self, answer: Answering, name: str) -> Script[None]:
        reader, parts = answer.reader, answer.parts
        yield from reader.space()
        # Known before the call begins: what follows is a parameter or the end.
        found = yield from reader.expect("<parameter=", self.end)
        parts.begin_call(name)
        schema = answer.tools.get(name, {})
        written = 0
        while found != self.end:
            key, _ = yield from reader.collect((">",))
            parts.arguments((", " if written else "{") + to_json(key.strip()) + ": ")
            types = types_of(parameter(schema, key.strip()))
            yield from _value(answer, types)
            written += 1
            yield from reader.space()
            found = yield from reader.expect("<parameter=", self.end, self.close)
            if found == self.close:
                break
        parts.arguments("}" if written else "{}")

    def write(self, rules: Rules) -> None:
        """Objects of JSON, or functions with tags."""
        if not self.functions:
            call, end = rules.objects("arguments"), f'"\\n" {rules.mark(self.close)}'
            again = f'"\\n" {rules.mark(self.open)} "\\n"'
            rules.add(f"call: {call} {end}")
            rules.add(f'rest: "\\n" {rules.repeated("call", again)}')
            return
        calls: list[str] = []
        for number, tool in enumerate(rules.tools):
            head = quoted(f"{self.function}{tool.name}>\n")
            calls.append(f"{head} {' '.join(tagged_parameters(rules, number))}")
        rules.add(f"function: {' | '.join(calls)}")
        rules.add(f"call: function {quoted(self.end + chr(10))} {rules.mark(self.close)}")
        again = f'"\\n" {rules.mark(self.open)} "\\n"'
        rules.add(f'rest: "\\n" {rules.repeated("call", again)}')


def _value(answer: Answering, types: frozenset[str]) -> Script[None]:
    """A parameter's value up to its closing tag; strings as they come."""
    reader, parts = answer.reader, answer.parts
    yield from reader.take("\n")
    closes = ("\n</parameter>", "</parameter>")
    if types == {"string"}:
        parts.arguments('"')
        found = yield from reader.until(
            closes, lambda text: parts.arguments(to_json(text)[1:-1]), again=False
        )
        if found is None:
            raise EndError
        parts.arguments('"')
        return
    pieces: list[str] = []
    if (yield from reader.until(closes, pieces.append, again=False)) is None:
        raise EndError
    parts.arguments(to_json(cast("".join(pieces), types)))


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
        """There is none."""
        raise InvalidRequestError(_NO_GRAMMAR.format(format="calls as in Python"))


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
        if not isinstance(call, ast.Call) or call.args:
            raise MalformedError
        values = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords if k.arg}
        if len(values) != len(call.keywords):
            raise MalformedError
        to_json(values)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise MalformedError from error
    return values


class GemmaCalls(CallFormat):
    """`call:NAME{key:value}` between marks; strings stand between quotes that are a token."""

    opens = ("<|tool_call>",)
    close, quote = "<tool_call|>", '<|"|>'
    others = (close, quote, "<|tool_response>")

    def calls(self, answer: Answering, mark: str) -> Script[None]:
        """One call, which is passed on once it is whole."""
        reader = answer.reader
        yield from reader.expect("call:")
        name, _ = yield from reader.collect(("{",))
        reader.position -= 1
        if not name.strip():
            raise MalformedError
        value = yield from self._value(reader, 0)
        answer.parts.whole_call(name.strip(), to_json(value))
        yield from reader.take(self.close)

    def write(self, rules: Rules) -> None:
        """There is none."""
        raise InvalidRequestError(_NO_GRAMMAR.format(format="Gemma's objects"))

    def _value(self, reader: Reader, depth: int) -> Script[Any]:
        if depth > 64:
            raise MalformedError
        yield from reader.space()
        found = yield from reader.take(self.quote, "{", "[")
        if found == self.quote:
            text: list[str] = []
            if (yield from reader.until((self.quote,), text.append)) is None:
                raise EndError
            return "".join(text)
        if found == "{":
            return (yield from self._object(reader, depth))
        if found == "[":
            return (yield from self._list(reader, depth))
        word = yield from reader.matching(re.compile(r"[-+.\w]*"))
        try:
            return json.loads(word)
        except ValueError as error:
            raise MalformedError from error

    def _object(self, reader: Reader, depth: int) -> Script[dict[str, Any]]:
        values: dict[str, Any] = {}
        yield from reader.space()
        if (yield from reader.take("}")):
            return values
        while True:
            yield from reader.space()
            if (yield from reader.take(self.quote)):
                key, _ = yield from reader.collect((self.quote,))
                yield from reader.expect(":")
            else:
                key, _ = yield from reader.collect((":",))
            values[key.strip()] = yield from self._value(reader, depth + 1)
            yield from reader.space()
            if (yield from reader.expect(",", "}")) == "}":
                return values

    def _list(self, reader: Reader, depth: int) -> Script[list[Any]]:
        values: list[Any] = []
        yield from reader.space()
        if (yield from reader.take("]")):
            return values
        while True:
            values.append((yield from self._value(reader, depth + 1)))
            yield from reader.space()
            if (yield from reader.expect(",", "]")) == "]":
                return values

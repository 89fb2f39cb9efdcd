"""Calls as Gemma 4 writes them: objects whose strings stand between quotes that are a token."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

from ...errors import InvalidRequestError
from .formats import Answering, CallFormat
from .json_values import to_json
from .reader import EndError, MalformedError, Reader, Script
from .rules import Rules, quoted
from .value_rules import Notation, ValueRules, length, limits_name

_QUOTE: Final = '<|"|>'
_QUOTE_REGEX: Final = r'<\|"\|>'
_WORD = re.compile(r"[-+.\w]*")
# Keys without quotes, as its template writes them.
_PLAIN_KEY = re.compile(r"[\w$@/.-]+( [\w$@/.-]+)*")
_LONGEST_KEY: Final = 128  # characters
_DEEPEST: Final = 64  # values within each other


class GemmaNotation(Notation):
    """As JSON, but for strings and keys."""

    true, false, null = "true", "false", "null"
    comma = quoted(",")

    def string(self, rules: Rules, least: int, most: int | None) -> str:
        """Anything but the quote, also where it is not written as a token."""
        text = rf"/(.|\n){length(least, most)}/ & ~/(.|\n)*{_QUOTE_REGEX}(.|\n)*/"
        quote = rules.mark(_QUOTE)
        return f"{quote} {rules.define(f'TEXT_{limits_name(least, most)}', text)} {quote}"

    def text(self, rules: Rules, value: str) -> str:
        """Without escapes: there are none."""
        if _QUOTE in value:
            raise InvalidRequestError(
                f"a tool has the value {value[:64]!r} in its schema, which holds this model's quote"
            )
        quote = rules.mark(_QUOTE)
        return f"{quote} {quoted(value)} {quote}" if value else f"{quote} {quote}"

    def key(self, rules: Rules, name: str) -> str:
        """As it is, where it ends at the colon."""
        if len(name) <= _LONGEST_KEY and _PLAIN_KEY.fullmatch(name):
            return quoted(f"{name}:")
        if not 0 < len(name) <= _LONGEST_KEY or name.strip() != name or _QUOTE in name:
            raise InvalidRequestError(
                f"a tool has the parameter {name[:64]!r}, a name that this model cannot write"
            )
        return f'{self.text(rules, name)} ":"'

    def any_key(self, rules: Rules) -> str:
        """A word."""
        return rules.define("KEY", r"/[A-Za-z_][A-Za-z0-9_-]{0,63}:/")


_NOTATION: Final = GemmaNotation()


class GemmaCalls(CallFormat):
    """`call:NAME{key:value}` between marks; strings stand between quotes that are a token."""

    opens = ("<|tool_call>",)
    close = "<tool_call|>"
    others = (close, _QUOTE, "<|tool_response>")

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
        """Each call between marks of its own."""
        if rules.special(_QUOTE) is None:
            raise InvalidRequestError(
                f"this model's tokenizer lacks the special token {_QUOTE}: calls cannot be enforced"
            )
        calls: list[str] = []
        for tool in rules.tools:
            values = ValueRules(rules, _NOTATION, tool)
            calls.append(f"{quoted(f'call:{tool.name}')} {values.value(values.root)}")
        rules.add(f"named: {' | '.join(calls)}")
        rules.add(f"call: named {rules.mark(self.close)}")
        rules.add(f"rest: {rules.repeated('call', rules.mark(self.opens[0]))}")

    def _value(self, reader: Reader, depth: int) -> Script[Any]:
        if depth > _DEEPEST:
            raise MalformedError
        yield from reader.space()
        found = yield from reader.take(_QUOTE, "{", "[")
        if found == _QUOTE:
            text: list[str] = []
            if (yield from reader.until((_QUOTE,), text.append)) is None:
                raise EndError
            return "".join(text)
        if found == "{":
            return (yield from self._object(reader, depth))
        if found == "[":
            return (yield from self._list(reader, depth))
        word = yield from reader.matching(_WORD)
        try:
            value = json.loads(word)
        except ValueError as error:
            raise MalformedError from error
        if isinstance(value, float) and not math.isfinite(value):
            raise MalformedError  # no number of JSON
        return value

    def _object(self, reader: Reader, depth: int) -> Script[dict[str, Any]]:
        values: dict[str, Any] = {}
        yield from reader.space()
        if (yield from reader.take("}")):
            return values
        while True:
            yield from reader.space()
            if (yield from reader.take(_QUOTE)):
                key, _ = yield from reader.collect((_QUOTE,))
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

"""What the formats of calls have in common, and those whose calls are objects of JSON."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .json_values import json_value, whole_value
from .parts import Parts
from .reader import EndError, MalformedError, Reader, Script
from .rules import Rules, quoted

_KEYS = frozenset({"name", "arguments", "parameters", "type", "id"})
_ARGUMENTS = ("arguments", "parameters")

Tools = Mapping[str, Mapping[str, Any]]  # the schema of the parameters, by the tool's name


@dataclass(slots=True)
class Answering:
    """An answer that is being read."""

    reader: Reader
    parts: Parts
    tools: Tools
    hidden: frozenset[str] = frozenset()  # marks that are special tokens, and so never text
    begin: int = 0  # where what may be a call begins
    before: int = 0  # calls that had begun there
    is_marked: bool = False  # a mark says that it is one

    def begins(self, mark: str = "") -> None:
        """What comes, or came with the mark, may be a call."""
        self.begin, self.before = self.reader.position - len(mark), self.parts.calls
        self.is_marked = bool(mark)

    def give_up(self) -> None:
        """It is none: it is text."""
        if self.parts.calls == self.before:
            self.parts.given_up += self.is_marked  # else any JSON object is an attempt
            text = self.reader.since(self.begin)
            for mark in self.hidden:
                text = text.replace(mark, "")
            self.parts.text(text)


class CallFormat(ABC):
    """How a family of models writes calls."""

    opens: tuple[str, ...] = ()  # where calls begin in a text
    others: tuple[str, ...] = ()  # more marks that may be special tokens
    bare: str = ""  # characters that an answer may begin calls with, without a mark

    @property
    def marks(self) -> tuple[str, ...]:
        """All that may be special tokens."""
        return (*self.opens, *self.others)

    @abstractmethod
    def calls(self, answer: Answering, mark: str) -> Script[None]:
        """Reads calls behind the mark, which is empty at the beginning of an answer.

        Raises MalformedError: what was read since `answer.begins` is text, unless a call has begun.
        """

    @abstractmethod
    def write(self, rules: Rules) -> None:
        """Adds the rule `rest` of a grammar: what follows the first of `opens`, up to the end.

        Raises InvalidRequestError for what this format has no grammar for.
        """


class JsonCalls(CallFormat):
    """A mark, then an object with name and arguments, or a list of them."""

    def __init__(self, opens: tuple[str, ...], close: str = "") -> None:
        self.opens, self._close = opens, close
        self.others = (close,) if close else ()

    def calls(self, answer: Answering, mark: str) -> Script[None]:
        """One object, or a list."""
        reader = answer.reader
        yield from reader.space()
        if (yield from reader.take("[")):
            yield from list_of_calls(answer)
        else:
            yield from json_call(answer, self.others)
        if self._close:
            yield from reader.space()
            yield from reader.take(self._close)

    def write(self, rules: Rules) -> None:
        """A list."""
        rules.add(f'rest: "[" {rules.repeated(rules.objects("arguments"), quoted(", "))} "]"')


class LlamaCalls(CallFormat):
    """Objects with name and parameters, maybe behind a mark, with `;` or nothing between them."""

    opens = ("<|python_tag|>",)
    bare = "{"

    def calls(self, answer: Answering, mark: str) -> Script[None]:
        """As many as follow each other."""
        reader = answer.reader
        while True:
            yield from json_call(answer, (), known=True)
            answer.begins()
            yield from reader.space()
            if (yield from reader.take(";")):
                yield from reader.space()
            if (yield from reader.peek()) != "{":
                reader.position = answer.begin
                return

    def write(self, rules: Rules) -> None:
        """Objects, with the separator that its prompt asks for."""
        rules.add(f"rest: {rules.repeated(rules.objects('parameters'), quoted('; '))}")


class MistralCalls(CallFormat):
    """`[TOOL_CALLS]` and a list; in newer models, for each call, name, `[ARGS]` and arguments."""

    opens = ("[TOOL_CALLS]",)
    others = ("[ARGS]", "[CALL_ID]")

    def __init__(self, *, listed: bool) -> None:
        """`listed`: the model writes a list; both are read."""
        self.listed = listed

    def calls(self, answer: Answering, mark: str) -> Script[None]:
        """A list, or one call."""
        reader = answer.reader
        yield from reader.space()
        if (yield from reader.take("[")):
            yield from list_of_calls(answer)
            return
        name, found = yield from reader.collect(("[ARGS]", "[CALL_ID]", "{"))
        if found == "[CALL_ID]":
            _, found = yield from reader.collect(("[ARGS]", "{"))
        if found == "{":
            reader.position -= 1
        yield from named_call(answer, name, self.opens)

    def write(self, rules: Rules) -> None:
        """The one of both that the model writes."""
        if self.listed:
            calls = rules.repeated(rules.objects("arguments"), quoted(", "))
            rules.add(f'rest: " "? "[" {calls} "]"')
            return
        named = (
            f"{quoted(tool.name)} {rules.mark('[ARGS]')} {rules.arguments(number)}"
            for number, tool in enumerate(rules.tools)
        )
        rules.add(f"call: {' | '.join(named)}")
        rules.add(f"rest: {rules.repeated('call', rules.mark(self.opens[0]))}")


class DeepSeekCalls(CallFormat):
    """A list between special tokens; the arguments are in a fence, and since V3.1 in none."""

    opens = ("<\uff5ctool▁calls▁begin\uff5c>",)
    call, name, end, close = (
        *("<\uff5ctool▁call▁begin\uff5c>", "<\uff5ctool▁sep\uff5c>"),
        *("<\uff5ctool▁call▁end\uff5c>", "<\uff5ctool▁calls▁end\uff5c>"),
    )
    others = (call, name, end, close)
    fence = "\n```json\n"

    def __init__(self, *, fence: bool) -> None:
        """`fence`: the model writes one; both are read."""
        self.fenced = fence

    def calls(self, answer: Answering, mark: str) -> Script[None]:
        """All of the list."""
        reader = answer.reader
        while True:
            yield from reader.space()
            if (yield from reader.expect(self.call, self.close)) == self.close:
                return
            name, _ = yield from reader.collect((self.name,))
            if name.strip() == "function":
                name, _ = yield from reader.collect(("\n",))
                yield from reader.expect(self.fence[1:])
            yield from named_call(answer, name, (self.end,))
            yield from reader.space()
            if (yield from reader.take("```")):
                yield from reader.space()
            yield from reader.take(self.end)
            answer.begins()

    def write(self, rules: Rules) -> None:
        """A list."""
        named: list[str] = []
        for number, tool in enumerate(rules.tools):
            name, arguments = tool.name, rules.arguments(number)
            if self.fenced:
                named.append(
                    f'"function" {rules.mark(self.name)} {quoted(name + self.fence)} {arguments}'
                    f" {quoted(chr(10) + '```')}"
                )
            else:
                named.append(f"{quoted(name)} {rules.mark(self.name)} {arguments}")
        rules.add(f"named: {' | '.join(named)}")
        rules.add(f"call: {rules.mark(self.call)} named {rules.mark(self.end)}")
        between = quoted("\n") if self.fenced else ""
        rules.add(f"rest: {rules.repeated('call', between)} {rules.mark(self.close)}")


def json_call(answer: Answering, closes: tuple[str, ...], *, known: bool = False) -> Script[None]:
    """An object with name and arguments, in any order; `known`: of a tool that there is.

    Arguments that stop being JSON are passed on as they are, up to one of `closes`.
    """
    reader, parts = answer.reader, answer.parts
    yield from reader.expect("{")
    name, held, has_begun = "", None, False
    while True:
        yield from reader.space()
        if (yield from reader.peek()) != '"':
            raise EndError if reader.at_end else MalformedError
        key = yield from whole_value(reader)
        if key not in _KEYS:
            raise MalformedError
        yield from reader.space()
        yield from reader.expect(":")
        yield from reader.space()
        if key in _ARGUMENTS and name and (yield from reader.peek()) == "{":
            yield from _stream(answer, name, closes)
            has_begun = True
        else:
            value = yield from whole_value(reader)
            if key == "name":
                name = _checked(value, answer.tools if known else None)
            elif key in _ARGUMENTS:
                held = value
        yield from reader.space()
        if (yield from reader.expect(",", "}")) == "}":
            break
    if not has_begun:
        if not name:
            raise MalformedError
        arguments = json.dumps(_as_object(held), ensure_ascii=False)
        parts.begin_call(name)
        parts.arguments(arguments)
    parts.end_call()


def list_of_calls(answer: Answering) -> Script[None]:
    """Objects up to the end of their list, which has begun."""
    reader = answer.reader
    while True:
        yield from reader.space()
        yield from json_call(answer, ())
        yield from reader.space()
        answer.begins()
        if (yield from reader.expect(",", "]")) == "]":
            return


def named_call(answer: Answering, name: str, closes: tuple[str, ...]) -> Script[None]:
    """The arguments of a call whose name came before. Raises MalformedError."""
    yield from answer.reader.space()
    if (yield from answer.reader.peek()) != "{":
        raise EndError if answer.reader.at_end else MalformedError
    yield from _stream(answer, _checked(name.strip(), None), closes)
    answer.parts.end_call()


def _stream(answer: Answering, name: str, closes: tuple[str, ...]) -> Script[None]:
    answer.parts.begin_call(name)
    try:
        yield from json_value(answer.reader, answer.parts.arguments, again=False)
    except EndError:
        raise
    except MalformedError:
        yield from answer.reader.until(closes, answer.parts.arguments, again=False)
        raise


def _checked(name: Any, tools: Tools | None) -> str:
    if not isinstance(name, str) or not name or any(c.isspace() for c in name):
        raise MalformedError
    if tools is not None and name not in tools:
        raise MalformedError
    return name


def _as_object(value: Any) -> dict[str, Any]:
    """Arguments that did not come as an object: none, or an object in a string."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError) as error:
            raise MalformedError from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MalformedError
    return value

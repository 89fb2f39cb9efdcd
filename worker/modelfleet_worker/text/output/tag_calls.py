"""Calls between tags: an object of JSON, or a tag for each parameter."""

from __future__ import annotations

from .formats import Answering, CallFormat, json_call, list_of_calls
from .json_values import to_json
from .reader import EndError, MalformedError, Script
from .rules import Rules, quoted
from .tagged_parameters import tagged_parameters
from .typed_values import cast, parameter, types_of


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

"""Rules of a grammar that formats share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSchema:
    """A tool that may be called."""

    name: str
    schema: Mapping[str, Any]  # of its parameters
    json: str  # what the grammar holds them to: the text behind `%json`
    strict: bool = True  # else any object


def quoted(text: str) -> str:
    """A text in a grammar."""
    return json.dumps(text, ensure_ascii=False)


@dataclass(slots=True)
class Rules:
    """The rules so far. `special`: the id of a text that is one special token."""

    tools: Sequence[ToolSchema]
    special: Callable[[str], int | None]
    single: bool = field(kw_only=True)
    lines: list[str] = field(default_factory=list)
    defined: set[str] = field(default_factory=set)  # names

    def add(self, line: str) -> None:
        """One more."""
        self.lines.append(line)

    def define(self, name: str, body: str) -> str:
        """A rule that may be asked for again, and is then the same; its name."""
        if name not in self.defined:
            self.defined.add(name)
            self.add(f"{name}: {body}")
        return name

    def new(self, kind: str, body: str) -> str:
        """A rule whose name says its kind; its name."""
        return self.define(f"{kind}_{len(self.lines)}", body)

    def mark(self, text: str) -> str:
        """A mark: as a special token, if it is one."""
        token = self.special(text)
        return quoted(text) if token is None else f"<[{token}]>"

    def arguments(self, number: int) -> str:
        """The name of a rule for the arguments of a tool."""
        return self.define(f"arguments_{number}", f"%json {self.tools[number].json}")

    def objects(self, key: str) -> str:
        """The name of a rule for calls as objects of JSON."""
        calls: list[str] = []
        for number, tool in enumerate(self.tools):
            head = f'{{"name": {json.dumps(tool.name)}, "{key}": '
            calls.append(f'{quoted(head)} {self.arguments(number)} "}}"')
        self.add(f"object: {' | '.join(calls)}")
        return "object"

    def repeated(self, call: str, between: str = "") -> str:
        """One call, or as many as the model likes."""
        if self.single:
            return call
        return f"{call} ({between} {call})*" if between else f"{call} ({call})*"

"""The grammar that holds an answer to calls of tools, of the same formats that the parsers read.

The text is Lark as llguidance reads it: `%json` holds a value to a schema, `<[ID]>` is a special
token, `[lazy]` ends a text where its end first comes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...errors import InvalidRequestError
from . import harmony
from .rules import Rules, ToolSchema, quoted
from .styles import OutputStyle

_OF_REGEXES = frozenset(r".+*?()|[]{}^$/\&~@#-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What an answer has to be."""

    tools: Sequence[ToolSchema]  # that may be called
    required: bool  # a call it must be; else text is right, too
    single: bool  # one call at most
    # What it must be where it is text: the text behind `%json`; empty: any text.
    text_schema: str = ""


def write_grammar(style: OutputStyle, demand: Demand, special: Callable[[str], int | None]) -> str:
    """Lark for the answer behind its reasoning. InvalidRequestError: the format has none.

    `special`: the id of a text that is one special token.
    """
    rules = Rules(demand.tools, special, single=demand.single)
    if style.is_harmony:
        return _harmony(rules, demand)
    if style.calls is None:
        raise InvalidRequestError(
            f"calls in the format of this model ({style.tools}) cannot be enforced: use"
            " tool_choice 'auto' without 'strict', or name a format in spec.model.toolParser"
        )
    opened = style.calls.opens[0] if style.calls.opens and not style.calls.bare else ""
    style.calls.write(rules)  # `rest`: what follows the first mark
    if demand.required:
        start = [f"start: {rules.mark(opened)} rest" if opened else "start: rest"]
    elif demand.text_schema:
        start = [
            f"start: text | {rules.mark(opened) if opened else ''} rest",
            f"text: %json {demand.text_schema}",
        ]
    else:
        start = _text_or_calls(opened, style.calls.bare, special)
    return "\n".join((*start, *rules.lines, ""))


def _text_or_calls(opened: str, bare: str, special: Callable[[str], int | None]) -> list[str]:
    if not opened:  # calls come at the beginning, and by their first character
        first = "".join(f"\\{c}" for c in bare)
        return ["start: TEXT? | rest", rf"TEXT: /[^{first}\s](.|\n)*/"]
    token = special(opened)
    if token is not None:
        return [f"start: TEXT? | TEXT? <[{token}]> rest", r"TEXT: /(.|\n)+/"]
    mark = "".join(f"\\{c}" if c in _OF_REGEXES else c for c in opened)
    return [
        "start: TEXT? | before rest",
        rf"TEXT: /(.|\n)+/ & ~/(.|\n)*{mark}(.|\n)*/",
        rf"before[lazy]: /(.|\n)*{mark}/",
    ]


def _harmony(rules: Rules, demand: Demand) -> str:
    """With the reasoning: its marks are those of all messages."""
    if any(rules.special(mark) is None for mark in harmony.MARKS[:5]):
        raise InvalidRequestError(
            "this model's tokenizer lacks the special tokens of its channels: calls cannot be"
            " enforced"
        )
    channel, message = rules.mark(harmony.CHANNEL), rules.mark(harmony.MESSAGE)
    end, start = rules.mark(harmony.END), rules.mark(harmony.START)
    calls: list[str] = []
    for number, tool in enumerate(demand.tools):
        header = f"commentary to=functions.{tool.name} "
        calls.append(
            f"{channel} {quoted(header)} {rules.mark(harmony.CONSTRAIN)}"
            f' "json" {message} {rules.arguments(number)}'
        )
    if calls:
        rules.add(f"call: {' | '.join(calls)}")
    rules.add(f'analysis: {channel} "analysis" {message} TEXT {end} {start} "assistant"')
    rules.add(r"TEXT: /(.|\n)*/")
    if demand.required:
        return "\n".join(("start: analysis? call", *rules.lines, ""))
    text = f"%json {demand.text_schema}" if demand.text_schema else "TEXT"
    rules.add(f"answer: {text}")
    rules.add(f'final: {channel} "final" {message} answer')
    either = "(call | final)" if calls else "final"
    return "\n".join((f"start: analysis? {either}", *rules.lines, ""))

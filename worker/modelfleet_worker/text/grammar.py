"""What an answer may be held to, as text; a value that is compared and cached."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from .json_schema import check_schema

# After the reasoning, before the answer: models write a line break or two.
_BETWEEN: Final = r"/[ \t\r\n]{0,8}/"


class GrammarKind(StrEnum):
    """How a grammar is written."""

    JSON_SCHEMA = "json_schema"
    LARK = "lark"
    REGEX = "regex"


@dataclass(frozen=True, slots=True)
class Grammar:
    """Of the whole answer, but for its reasoning."""

    kind: GrammarKind
    text: str

    @classmethod
    def json_schema(cls, text: str) -> Grammar:
        """Of the answers that are valid by a JSON schema, as the caller sent it."""
        return cls(GrammarKind.JSON_SCHEMA, text)

    @classmethod
    def lark(cls, text: str) -> Grammar:
        """With a rule `start`, in llguidance's dialect."""
        return cls(GrammarKind.LARK, text)

    @classmethod
    def regex(cls, text: str) -> Grammar:
        """Of a regular expression that the whole answer matches."""
        return cls(GrammarKind.REGEX, text)


JSON_OBJECT: Final = Grammar.json_schema('{"type":"object"}')


@dataclass(frozen=True, slots=True)
class Mark:
    """Where reasoning begins or ends; `token_id` if it is a special token, which adds no text."""

    text: str
    token_id: int | None = None


@dataclass(frozen=True, slots=True)
class ReasoningMarks:
    """What comes before the answer."""

    open: Mark
    close: Mark
    opened: bool  # the prompt ends within it; else the answer may begin with it, or without it


def as_llguidance(
    grammar: Grammar, reasoning: ReasoningMarks | None, *, forces_tokens: bool = True
) -> str:
    """The grammar as llguidance takes it. Raises InvalidRequestError for a schema.

    With `forces_tokens`, text that the grammar leaves no choice about comes as the tokenizer would
    cut it; else in any of the ways that spell it.
    """
    rules = "start: @answer\n" if reasoning is None else _after(reasoning)
    if not forces_tokens:
        rules = f'%llguidance {{"no_forcing": true}}\n{rules}'
    answer = {"name": "answer", **_answer(grammar)}
    return json.dumps({"grammars": [{"lark_grammar": rules}, answer]})


def _after(reasoning: ReasoningMarks) -> str:
    close = reasoning.close
    thinking = "start: thinking between @answer\n"
    if not reasoning.opened:
        opening = _terminal(reasoning.open)
        thinking = f"start: ({opening} thinking between)? @answer\n"
    if close.token_id is None:
        thinking += f"thinking[suffix={json.dumps(close.text)}]: /(?s:.*)/\n"
    else:
        thinking += f"thinking: /(?s:.*)/ {_terminal(close)}\n"
    return f"{thinking}between: {_BETWEEN}\n"


def _answer(grammar: Grammar) -> dict[str, Any]:
    match grammar.kind:
        case GrammarKind.JSON_SCHEMA:
            return {"json_schema": json.loads(check_schema(grammar.text))}
        case GrammarKind.LARK:
            return {"lark_grammar": grammar.text}
        case GrammarKind.REGEX:
            return {"lark_grammar": f"start: {_regex_literal(grammar.text)}"}


def _regex_literal(text: str) -> str:
    from llguidance import regex_to_lark

    return f"/{regex_to_lark(text)}/"


def _terminal(mark: Mark) -> str:
    return json.dumps(mark.text) if mark.token_id is None else f"<[{mark.token_id}]>"

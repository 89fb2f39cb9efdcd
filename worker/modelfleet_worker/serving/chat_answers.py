"""What the answer to a chat is held to, and how it is read."""

from __future__ import annotations

import json
from dataclasses import replace

from ..errors import InvalidRequestError
from ..text.grammar import Grammar, GrammarKind, Mark, ReasoningMarks
from ..text.json_schema import check_schema
from ..text.output.grammar import Demand, write_grammar
from ..text.output.parser import new_parser
from ..text.output.rules import ToolSchema
from ..text.output.styles import OutputStyle
from ..text.tokenizer import Tokenizer
from .chats import ChatPrompt, parameters_of
from .requests import GenerationRequest

_ANY_OBJECT = '{"type": "object"}'


def plan_answer(
    asked: GenerationRequest, prompt: ChatPrompt, text: str, tokenizer: Tokenizer
) -> GenerationRequest:
    """The request with its parser and its grammar; `text` is the prompt's.

    Raises InvalidRequestError for tools of a model whose calls nobody can read, and for what
    cannot be enforced.
    """
    style, tools = tokenizer.style, prompt.tools
    if tools and not style.writes_calls:
        raise InvalidRequestError(
            "it is not known how this model writes calls of tools: leave 'tools' out, or name a"
            " format in spec.model.toolParser"
        )
    if tools or (prompt.takes_parts and style.reasons):
        hidden, single = frozenset(tokenizer.mark_ids.values()), prompt.choice.single
        asked = replace(
            asked,
            new_parser=lambda: new_parser(style, text, tools, hidden=hidden, single=single),
        )
    grammar = _grammar(asked.grammar, prompt, tokenizer)
    if grammar is None:
        return asked
    return replace(asked, grammar=grammar, reasoning=_reasoning(style, text, tokenizer))


def _grammar(wanted: Grammar | None, prompt: ChatPrompt, tokenizer: Tokenizer) -> Grammar | None:
    """Of calls, beside what the text is held to; None: the answer is free."""
    style, tools, choice = tokenizer.style, prompt.tools, prompt.choice
    is_free = not (choice.required or prompt.strict or wanted)
    if is_free or not (tools or style.is_harmony):
        return wanted
    text_schema = ""
    if wanted is not None and not choice.required:
        if wanted.kind is not GrammarKind.JSON_SCHEMA:
            raise InvalidRequestError(
                "a grammar or a regular expression cannot be enforced beside tools, nor for this"
                " model's channels: use a JSON schema"
            )
        text_schema = check_schema(wanted.text, "response_format")
    names = [choice.name] if choice.name else list(tools)
    demand = Demand(
        tools=[_schema(name, prompt) for name in names],
        required=choice.required,
        single=choice.single,
        text_schema=text_schema,
    )
    try:
        return Grammar.lark(write_grammar(style, demand, tokenizer.special_id))
    except InvalidRequestError:
        loose = replace(demand, tools=[_loosened(tool, prompt) for tool in demand.tools])
        if loose == demand:
            raise
        return Grammar.lark(write_grammar(style, loose, tokenizer.special_id))


def _loosened(tool: ToolSchema, prompt: ChatPrompt) -> ToolSchema:
    """Held to any object, where the client did not ask for more."""
    is_strict = tool.name in prompt.strict
    return tool if is_strict else replace(tool, json=_ANY_OBJECT, strict=False)


def _schema(name: str, prompt: ChatPrompt) -> ToolSchema:
    """A tool that is not strict is held to its schema where that can be, else to any object."""
    schema = next(
        parameters_of(tool) for tool in prompt.chat.tools or () if tool["function"]["name"] == name
    )
    is_strict = name in prompt.strict
    if is_strict and schema["type"] != "object":
        raise InvalidRequestError(f"the parameters of the tool {name!r} must be of type 'object'")
    held = _ANY_OBJECT
    if is_strict or (prompt.choice.required and schema["type"] == "object"):
        try:
            held = check_schema(json.dumps(schema), f"the parameters of the tool {name!r}")
        except InvalidRequestError:
            if is_strict:
                raise
    return ToolSchema(name=name, schema=schema, json=held, strict=held is not _ANY_OBJECT)


def _reasoning(style: OutputStyle, text: str, tokenizer: Tokenizer) -> ReasoningMarks | None:
    if style.reasoning is None:
        return None
    tags = style.reasoning
    return ReasoningMarks(
        Mark(tags.open, tokenizer.special_id(tags.open)),
        Mark(tags.close, tokenizer.special_id(tags.close)),
        opened=tags.is_open(text),
    )

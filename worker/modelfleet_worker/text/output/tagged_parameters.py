"""The grammar of parameters that stand in tags: strings as they are, everything else as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...errors import InvalidRequestError
from ..json_schema import check_schema
from .rules import Rules, quoted
from .typed_values import types_of

_OF_AN_OBJECT = frozenset(
    (
        *("type", "properties", "required", "additionalProperties", "title", "description"),
        *("$defs", "definitions", "$schema", "default", "examples"),
    )
)
_OF_A_STRING = frozenset(
    (
        *("type", "title", "description", "default", "examples", "enum", "const", "nullable"),
        *("anyOf", "oneOf", "deprecated"),
    )
)
_LONGEST_KEY = 64  # characters


def tagged_parameters(rules: Rules, number: int) -> list[str]:
    """Rules for the parameters of a tool, in the order of its schema.

    Raises InvalidRequestError for a keyword that tags cannot be held to.
    """
    tool = rules.tools[number]
    if not tool.strict:
        rules.add("any_parameter[lazy]: /<parameter=[^>\\n]{1,64}>\\n(.|\\n)*\\n<\\/parameter>\\n/")
        return ["any_parameter*"]
    schema = tool.schema
    _check(schema, _OF_AN_OBJECT, tool.name)
    required = schema.get("required") or []
    parameters: list[str] = []
    for place, (key, value) in enumerate((schema.get("properties") or {}).items()):
        name = f"parameter_{number}_{place}"
        if any(c in "<>" or c.isspace() for c in key) or not 0 < len(key) <= _LONGEST_KEY:
            raise InvalidRequestError(
                f"the tool {tool.name!r} has the parameter {key[:64]!r}, a name that this model's"
                " tags cannot hold"
            )
        head, tail = quoted(f"<parameter={key}>\n"), quoted("\n</parameter>\n")
        if "string" in types_of(value):
            rules.add(f"{name}: {head} {_string(rules, value, name, tool.name)}")
        else:
            whole = {**value, **{k: schema[k] for k in ("$defs", "definitions") if k in schema}}
            held = check_schema(json.dumps(whole), f"the parameter {key!r} of {tool.name!r}")
            rules.add(f"{name}_value: %json {held}")
            rules.add(f"{name}: {head} {name}_value {tail}")
        parameters.append(name if key in required else f"{name}?")
    return parameters


def _string(rules: Rules, schema: Mapping[str, Any], name: str, tool: str) -> str:
    _check(schema, _OF_A_STRING, tool)
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else None)
    for choices in (schema.get("anyOf"), schema.get("oneOf")):
        for choice in choices or ():
            if types_of(choice) & {"string"}:
                _check(choice, _OF_A_STRING - {"enum", "const"}, tool)
    if values is not None:
        return f"({' | '.join(quoted(f'{v}{chr(10)}</parameter>{chr(10)}') for v in values)})"
    rules.add(f"{name}_text[lazy]: /(.|\\n)*\\n<\\/parameter>\\n/")
    return f"{name}_text"


def _check(schema: Mapping[str, Any], known: frozenset[str], tool: str) -> None:
    others = sorted(schema.keys() - known)
    if others:
        raise InvalidRequestError(
            f"the tool {tool!r} has the keyword {others[0]!r} in its schema: this model writes"
            " arguments as text in tags, which cannot be held to it"
        )

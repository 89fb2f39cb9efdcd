"""Tools as chats have them."""

from __future__ import annotations

from typing import Any, Final

from ..errors import InvalidRequestError, UnsupportedFieldError
from ..openai_api.answer import Json
from ..openai_api.bulk import Bulk
from ..openai_api.translated import Part, expanded, read_part, unsupported_value

MODES: Final = ("none", "auto", "required")
# A custom tool takes any text: to the model it is a function of one string.
TEXT_INPUT: Final = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


class FunctionTool(Part):
    """`function`: flat, where chats have it nested."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class CustomTool(Part):
    """`custom`."""

    name: str
    description: str | None = None
    format: dict[str, Any] | None = None


class NamedTool(Part):
    """A tool, where a choice names it."""

    name: str


class AllowedTools(Part):
    """`allowed_tools`: some of the tools only."""

    mode: str
    tools: list[Any]


def chat_tools(tools: list[Any], choice: Any, bulk: Bulk | None) -> tuple[list[Json], Any]:
    """The tools and the choice among them."""
    functions = [_function(tool, f"tools.{index}", bulk) for index, tool in enumerate(tools)]
    if choice is None or choice in MODES:
        return functions, choice
    if not isinstance(choice, dict):
        raise unsupported_value("tool_choice", choice, f"{', '.join(MODES)} or a function")
    match choice.get("type"):
        case "function" | "custom":
            name = read_part(NamedTool, choice, "tool_choice", bulk).name
            return functions, {"type": "function", "function": {"name": name}}
        case "allowed_tools":
            allowed = read_part(AllowedTools, choice, "tool_choice", bulk)
            if allowed.mode not in ("auto", "required"):
                raise unsupported_value("tool_choice.mode", allowed.mode, "auto or required")
            names = {
                read_part(NamedTool, tool, f"tool_choice.tools.{index}", bulk).name
                for index, tool in enumerate(allowed.tools)
            }
            missing = names - {function["function"]["name"] for function in functions}
            if missing:
                raise InvalidRequestError(
                    f"Invalid 'tool_choice.tools': {min(missing)[:40]!r} is none of the tools.",
                    param="tool_choice.tools",
                )
            few = [one for one in functions if one["function"]["name"] in names]
            return few, allowed.mode
        case kind:
            raise unsupported_value("tool_choice.type", kind, "function, custom or allowed_tools")


def _function(tool: Any, where: str, bulk: Bulk | None) -> Json:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if kind == "function":
        asked = read_part(FunctionTool, tool, where, bulk)
        function: Json = {"name": expanded(asked.name, bulk)}
        if asked.description is not None:
            function["description"] = asked.description
        if asked.parameters is not None:
            function["parameters"] = expanded(asked.parameters, bulk)
        if asked.strict is not None:
            function["strict"] = asked.strict
        return {"type": "function", "function": function}
    if kind == "custom":
        custom = read_part(CustomTool, tool, where, bulk)
        if custom.format is not None and custom.format.get("type") != "text":
            raise UnsupportedFieldError(
                f"'{where}.format' is not supported here, but of the type text: a grammar of a "
                "custom tool would not be enforced.",
                param=f"{where}.format",
            )
        function = {"name": expanded(custom.name, bulk), "parameters": TEXT_INPUT}
        if custom.description is not None:
            function["description"] = custom.description
        return {"type": "function", "function": function}
    raise unsupported_value(f"{where}.type", kind, "function or custom")

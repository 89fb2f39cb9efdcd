"""Tools as chats have them."""

from __future__ import annotations

from typing import Any, Final

from ..errors import InvalidRequestError
from ..openai_api.answer import Json
from ..openai_api.bulk import Bulk
from ..openai_api.translated import Part, expanded, read_part, unsupported_value

MODES: Final = {"auto": "auto", "any": "required", "none": "none"}


class Tool(Part):
    """A tool of the client's own."""

    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


class ToolChoice(Part):
    """Whether tools are to be called."""

    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


def chat_tools(tools: list[Any], bulk: Bulk | None) -> list[Json]:
    """OpenAI's list of tools. Those that run at Anthropic's have a `type` of their own."""
    return [_function(tool, f"tools.{index}", bulk) for index, tool in enumerate(tools)]


def _function(tool: Any, where: str, bulk: Bulk | None) -> Json:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if kind not in (None, "custom"):
        raise unsupported_value(f"{where}.type", kind, "custom")
    asked = read_part(Tool, tool, where, bulk)
    name, schema = expanded(asked.name, bulk), expanded(asked.input_schema, bulk)
    function: Json = {"name": name, "parameters": schema}
    if asked.description is not None:
        function["description"] = asked.description
    if asked.strict is not None:
        function["strict"] = asked.strict
    return {"type": "function", "function": function}


def chat_choice(choice: ToolChoice) -> Json:
    """`tool_choice` and `parallel_tool_calls`."""
    chat: Json = {}
    if choice.type == "tool":
        if choice.name is None:
            raise InvalidRequestError(
                "Missing required parameter: 'tool_choice.name'.", param="tool_choice.name"
            )
        chat["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    elif choice.type in MODES:
        chat["tool_choice"] = MODES[choice.type]
    else:
        raise unsupported_value("tool_choice.type", choice.type, "auto, any, tool or none")
    if choice.disable_parallel_tool_use is not None:
        chat["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    return chat

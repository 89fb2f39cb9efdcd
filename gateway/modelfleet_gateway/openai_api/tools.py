"""Tools of a chat, as OpenAI's API has them: which may be called, and the calls so far."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from pydantic_core import PydanticCustomError

from modelfleet_proto import worker_pb2

from ..errors import InvalidRequestError
from .bulk import Bulk

MAX_TOOLS: Final = 1024
MAX_CALLS: Final = 1024  # of one message
NAME: Final = re.compile(r"[^\s\"'<>(){}\[\]\\,=\x00-\x1f]{1,128}")
_MODES: Final = {
    "auto": worker_pb2.ToolChoice.AUTO,
    "none": worker_pb2.ToolChoice.NONE,
    "required": worker_pb2.ToolChoice.REQUIRED,
    "any": worker_pb2.ToolChoice.REQUIRED,  # Mistral's word for it
}


def check_tools(tools: Sequence[Any]) -> None:
    """Raises PydanticCustomError for the first that is no function with a name of its own."""
    names: set[str] = set()
    for index, tool in enumerate(tools):
        kind = tool.get("type", "function") if isinstance(tool, Mapping) else None
        if kind != "function" or not isinstance(tool, Mapping):
            raise _wrong(
                "tools", index, f"only tools of the type 'function' are supported, not {kind!r}"
            )
        function = tool.get("function")
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not (
            isinstance(name, str) and NAME.fullmatch(name)
        ):
            raise _wrong(
                "tools",
                index,
                "'function.name' must have 1 to 128 characters, and neither spaces nor brackets,"
                " quotes, commas, equals signs or backslashes",
            )
        if name in names:
            raise _wrong("tools", index, f"an earlier tool has the name {name!r}, too")
        names.add(name)
        parameters = function.get("parameters")
        if parameters is not None and not isinstance(parameters, Mapping):
            raise _wrong("tools", index, "'function.parameters' must be a JSON schema")
        if not isinstance(function.get("strict"), bool | None):
            raise _wrong("tools", index, "'function.strict' must be true or false")


def read_choice(
    choice: Any, tools: Sequence[Any] | None, *, parallel: bool | None
) -> worker_pb2.ToolChoice:
    """OpenAI's `tool_choice` and `parallel_tool_calls`. Raises PydanticCustomError."""
    single = parallel is False
    if choice is None:
        return worker_pb2.ToolChoice(single=single)
    if isinstance(choice, str) and choice in _MODES:
        if _MODES[choice] == worker_pb2.ToolChoice.REQUIRED and not tools:
            raise PydanticCustomError("tool_choice", "'required' needs 'tools'")
        return worker_pb2.ToolChoice(mode=_MODES[choice], single=single)
    asked: Mapping[str, Any] = choice if isinstance(choice, Mapping) else {}
    function = asked.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or asked.get("type", "function") != "function":
        raise PydanticCustomError(
            "tool_choice",
            "Expected 'none', 'auto', 'required' or "
            '{"type": "function", "function": {"name": ...}}',
        )
    if not any(tool["function"]["name"] == name for tool in tools or ()):
        raise PydanticCustomError(
            "tool_choice", "There is no tool {name} in 'tools'", {"name": repr(name)[:140]}
        )
    return worker_pb2.ToolChoice(mode=worker_pb2.ToolChoice.REQUIRED, name=name, single=single)


def check_calls(calls: Sequence[Any]) -> None:
    """Raises PydanticCustomError for the first of a message's that is no call of a function."""
    for index, call in enumerate(calls):
        kind = call.get("type", "function") if isinstance(call, Mapping) else None
        if kind != "function":
            raise _wrong("tool_calls", index, f"expected the type 'function', found {kind!r}")
        function = call.get("function")
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise _wrong("tool_calls", index, "it needs a string 'function.name'")
        if not isinstance(function.get("arguments", ""), str | Mapping | None):
            raise _wrong("tool_calls", index, "'function.arguments' must be a string of JSON")
        if not isinstance(call.get("id", ""), str):
            raise _wrong("tool_calls", index, "'id' must be a string")


def _wrong(field: Literal["tools", "tool_calls"], index: int, why: str) -> PydanticCustomError:
    return PydanticCustomError(field, "Entry {index}: {why}", {"index": index, "why": why[:300]})


def to_json(value: Any, bulk: Bulk | None, where: str) -> bytes:
    """JSON for the worker, with what was cut out of the body put back."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        raise InvalidRequestError(
            f"Invalid {where!r}: numbers must be finite, and values not too deep.", param=where
        ) from None
    return text.encode() if bulk is None else bulk.json(text)

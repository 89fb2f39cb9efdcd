"""What the client wants its answer to be held to: OpenAI's forms of it, and vLLM's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from modelfleet_proto import worker_pb2

from ..errors import InvalidRequestError, UnsupportedFieldError
from .bulk import Bulk

NEEDED: Final = "output_format"  # of a worker's features, for what is made here
TYPES: Final = ("text", "json_object", "json_schema")
# What vLLM's `structured_outputs` may say beside its constraint, and what changes nothing here.
WITHOUT_EFFECT: Final = frozenset(
    ("disable_any_whitespace", "disable_additional_properties", "disable_fallback")
)


def read_format(value: Any, where: str, bulk: Bulk | None = None) -> worker_pb2.OutputFormat | None:
    """Of `response_format`, or of the same in other APIs; None: anything.

    A schema may stand in `json_schema`, as in chats, or beside `type`, as in Responses. `where`:
    the field's name, for the InvalidRequestError. `bulk`: what was cut out of the body before.
    """
    if value is None:
        return None
    if not isinstance(value, dict):
        raise invalid(where, "Input should be an object")
    match value.get("type"):
        case "text":
            return None
        case "json_object":
            return worker_pb2.OutputFormat(json_object=True)
        case "json_schema":
            inside = value.get("json_schema")
            schema = inside if isinstance(inside, dict) else value
            place = f"{where}.json_schema.schema" if schema is inside else f"{where}.schema"
            if not isinstance(schema.get("schema"), dict):
                raise invalid(place, "a JSON schema is needed, an object")
            return _json_schema(schema["schema"], place, bulk)
    raise invalid(f"{where}.type", f"Input should be one of {', '.join(TYPES)}")


def read_structured_outputs(
    value: Mapping[str, Any], where: str, bulk: Bulk | None = None
) -> worker_pb2.OutputFormat | None:
    """Of vLLM's `structured_outputs`."""
    given = {k: v for k, v in value.items() if v is not None and v is not False}
    for name in given.keys() - {"json", "json_object", "regex", "choice", "grammar"}:
        if name not in WITHOUT_EFFECT:
            field = f"{where}.{name}"
            raise UnsupportedFieldError(f"{field!r} is not supported here.", param=field)
    wanted = [name for name in given if name not in WITHOUT_EFFECT]
    if len(wanted) > 1:
        raise invalid(where, f"Only one of {' and '.join(map(repr, wanted))} may be given")
    if not wanted:
        return None
    [name] = wanted
    return read_constraint(name, given[name], f"{where}.{name}", bulk)


def read_constraint(
    name: str, asked: Any, where: str, bulk: Bulk | None = None
) -> worker_pb2.OutputFormat:
    """Of one of vLLM's constraints: json, json_object, regex, choice or grammar."""
    match name:
        case "json":
            return _json_schema(asked, where, bulk)
        case "json_object":
            return worker_pb2.OutputFormat(json_object=True)
        case "regex":
            return worker_pb2.OutputFormat(regex=_text(asked, where, bulk))
        case "grammar":
            return worker_pb2.OutputFormat(grammar=_text(asked, where, bulk))
    return worker_pb2.OutputFormat(grammar=_choice(asked, where, bulk))


def only_one(
    formats: Mapping[str, worker_pb2.OutputFormat | None],
) -> worker_pb2.OutputFormat | None:
    """The one that is asked for, of those by their fields; InvalidRequestError for several."""
    asked = {name: one for name, one in formats.items() if one is not None}
    if len(asked) > 1:
        raise InvalidRequestError(
            f"Only one of {' and '.join(map(repr, asked))} may be given.", param=list(asked)[-1]
        )
    return next(iter(asked.values()), None)


def invalid(where: str, why: str) -> InvalidRequestError:
    """The error for a field."""
    return InvalidRequestError(f"Invalid {where!r}: {why}.", param=where)


def _json_schema(schema: Any, where: str, bulk: Bulk | None) -> worker_pb2.OutputFormat:
    if isinstance(schema, str):
        return worker_pb2.OutputFormat(json_schema=_text(schema, where, bulk))
    if not isinstance(schema, dict):
        raise invalid(where, "a JSON schema is needed, an object")
    try:
        text = json.dumps(
            _restored(schema, where, bulk),
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
        )
        text.encode()
    except (ValueError, RecursionError):  # a number beyond float64; half of a surrogate pair
        raise invalid(where, "it holds what JSON cannot, or is nested too deep") from None
    return worker_pb2.OutputFormat(json_schema=text)


def _choice(choices: Any, where: str, bulk: Bulk | None) -> str:
    """As a grammar."""
    if not isinstance(choices, list) or not choices:
        raise invalid(where, "Input should be a list of strings, at least one")
    texts = [_text(one, f"{where}.{i}", bulk) for i, one in enumerate(choices)]
    return "start: " + " | ".join(map(json.dumps, texts))


def _text(value: Any, where: str, bulk: Bulk | None) -> str:
    if not isinstance(value, str) or not value:
        raise invalid(where, "Input should be a string, not an empty one")
    return str(_restored(value, where, bulk))


def _restored(value: Any, where: str, bulk: Bulk | None) -> Any:
    """With the strings that were cut out."""
    if bulk is None:
        return value
    if isinstance(value, str):
        if bulk.holds_ids(value):
            raise invalid(where, "it holds a list of more numbers than are supported")
        return bulk.utf8(value).decode()
    if isinstance(value, list):
        return [_restored(one, where, bulk) for one in value]
    if isinstance(value, dict):
        return {_restored(k, where, bulk): _restored(v, where, bulk) for k, v in value.items()}
    return value

"""Which JSON schemas can be enforced: what is left of one for llguidance, or why it is refused.

What llguidance would refuse is refused here with the keyword and its place; so is what it takes and
does not hold to. Annotations are dropped: they say nothing about which values are valid. Enforced
is the meaning of draft 2020-12 and, where a schema uses them, of the older forms of its keywords.
Objects are held to the properties that are listed where the answer stays valid (`closed_objects`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from ..errors import InvalidRequestError
from .closed_objects import closable_objects
from .disjoint_schemas import are_disjoint

MAX_BYTES: Final = 64 << 10  # of a schema's text
MAX_DEPTH: Final = 60  # schemas within schemas; llguidance itself ends at 64
MAX_MULTIPLE: Final = 10_000  # the automaton of a multiple has as many states
# What may stand where JSON allows whitespace: some, so that no answer is whitespace without end.
_WHITESPACE: Final = r"[\x20\x0A\x0D\x09]{1,64}"
_SHOWN: Final = 80  # characters of a place in a schema

_MAPS: Final = ("properties", "patternProperties", "$defs", "definitions")
_LISTS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE: Final = ("items", "additionalProperties", "additionalItems")
_AS_THEY_ARE: Final = (
    *("$ref", "type", "required", "minItems", "maxItems", "maxProperties"),
    *("minLength", "maxLength", "pattern"),
)
_LOWER: Final = ("minimum", "exclusiveMinimum")
_UPPER: Final = ("maximum", "exclusiveMaximum")
# Of others it is only said what they mean; JSON Schema has them as annotations.
_FORMATS: Final = frozenset(
    (
        *("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"),
        "uri",
    )
)
_ANY_KEY: Final[tuple[Any, ...]] = ({}, True, {"type": "string"})
# Keywords that are not enforced, each with the values that say nothing.
_REFUSED: Final[Mapping[str, tuple[Any, ...]]] = {
    "$dynamicAnchor": (),
    "$dynamicRef": (),
    "$recursiveAnchor": (False,),
    "$recursiveRef": (),
    "contains": (),
    "dependencies": ({},),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "if": (),
    "not": (False,),
    "propertyNames": _ANY_KEY,
    "unevaluatedItems": ({}, True),
    "unevaluatedProperties": ({}, True),
    "uniqueItems": (False,),
}


def check_schema(text: str, where: str = "the JSON schema") -> str:
    """The schema for llguidance, as JSON: for a grammar of its own or after `%json` in Lark.

    Raises InvalidRequestError, whose message begins with `where` and names the keyword.
    """

    def refuse(why: str) -> InvalidRequestError:
        return InvalidRequestError(f"{where} {why}")

    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise refuse(f"has {len(text.encode())} bytes: at most {MAX_BYTES} are taken")
    try:
        schema = json.loads(text)
    except RecursionError:
        raise refuse(f"is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise refuse(f"is not valid JSON: {error}") from None
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise refuse(f"must be a JSON object, found {type(schema).__name__}")
    kept = _Normalizer(schema, refuse).schema(schema, "", 0)
    kept["x-guidance"] = {"whitespace_pattern": _WHITESPACE}
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":"))


class _Normalizer:
    """Walks over one schema."""

    def __init__(self, root: dict[str, Any], refuse: Callable[[str], InvalidRequestError]) -> None:
        self._root = root
        self._refuse = refuse
        self._closable = closable_objects(root)

    def schema(self, schema: Any, place: str, depth: int) -> Any:
        """What is left of a schema within the whole one."""
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise self._refuse(f"has {_kind(schema)}{_at(place)}, where a schema is expected")
        if depth > MAX_DEPTH:
            raise self._refuse(f"is nested deeper than {MAX_DEPTH} levels{_at(place)}")
        kept: dict[str, Any] = {}
        for keyword, value in schema.items():
            if keyword in _REFUSED or (keyword == "$id" and depth > 0):
                neutral = _REFUSED.get(keyword, ())
                if not any(value == v and type(value) is type(v) for v in neutral):
                    raise self._cannot(keyword, place)
            elif keyword in _MAPS:
                kept[keyword] = self._map(keyword, value, place, depth)
            elif keyword in _LISTS or (keyword == "items" and isinstance(value, list)):
                self._several(keyword, value, place, depth, kept)
            elif keyword in _SINGLE:
                kept[keyword] = self.schema(value, _within(place, keyword), depth + 1)
            else:
                self._plain(keyword, value, schema, place, kept)
        if id(schema) in self._closable:
            kept["additionalProperties"] = False
        return kept

    def _several(
        self, keyword: str, value: Any, place: str, depth: int, kept: dict[str, Any]
    ) -> None:
        schemas = self._list(keyword, value, place, depth)
        if keyword == "oneOf" and are_disjoint(value, self._root):
            kept.setdefault("allOf", []).append({"anyOf": schemas})
        elif keyword == "allOf":
            kept.setdefault("allOf", []).extend(schemas)
        else:
            kept[keyword] = schemas

    def _plain(
        self, keyword: str, value: Any, schema: dict[str, Any], place: str, kept: dict[str, Any]
    ) -> None:
        """A keyword without schemas in it; others are annotations."""
        if keyword in _AS_THEY_ARE:
            kept[keyword] = value
        elif keyword in _LOWER or keyword in _UPPER:
            kept[keyword] = value if isinstance(value, bool) else self._bound(keyword, value, place)
        elif keyword == "multipleOf":
            if isinstance(value, int | float) and value > MAX_MULTIPLE:
                raise self._cannot(keyword, place, f"more than {MAX_MULTIPLE}")
            kept[keyword] = value
        elif keyword in ("const", "enum"):
            self._check_numbers(value, keyword, place)
            kept[keyword] = value
        elif keyword == "format":
            if value in _FORMATS:
                kept[keyword] = value
        elif keyword == "minProperties":
            self._min_properties(value, schema, place, kept)

    def _map(self, keyword: str, value: Any, place: str, depth: int) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._refuse(f"has {_kind(value)} as {keyword!r}{_at(place)}, not an object")
        within = _within(place, keyword)
        return {k: self.schema(v, _within(within, k), depth + 1) for k, v in value.items()}

    def _list(self, keyword: str, value: Any, place: str, depth: int) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise self._refuse(f"has {_kind(value)} as {keyword!r}{_at(place)}, not a list of some")
        within = _within(place, keyword)
        return [self.schema(v, _within(within, str(i)), depth + 1) for i, v in enumerate(value)]

    def _bound(self, keyword: str, value: Any, place: str) -> Any:
        """Numbers are compared as float64: one that is none becomes the next one inside."""
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise self._refuse(f"has {_kind(value)} as {keyword!r}{_at(place)}, not a number")
        try:
            nearest = float(value)
        except OverflowError:
            raise self._cannot(keyword, place, "a number beyond float64") from None
        if nearest == value:
            return value
        inside = math.inf if keyword in _LOWER else -math.inf
        is_outside = nearest < value if keyword in _LOWER else nearest > value
        return int(math.nextafter(nearest, inside) if is_outside else nearest)

    def _check_numbers(self, value: Any, keyword: str, place: str) -> None:
        match value:
            case bool():
                pass
            case int() if abs(value) > 2**53:
                raise self._cannot(keyword, place, "an integer beyond 2^53")
            case float() if not math.isfinite(value):
                raise self._cannot(keyword, place, "a number beyond float64")
            case list():
                for one in value:
                    self._check_numbers(one, keyword, place)
            case dict():
                self._check_numbers(list(value.values()), keyword, place)

    def _min_properties(
        self, value: Any, schema: dict[str, Any], place: str, kept: dict[str, Any]
    ) -> None:
        """Of keys that the schema does not name the grammar cannot say that they differ."""
        required = schema.get("required")
        if isinstance(value, int) and isinstance(required, list) and value <= len(set(required)):
            return
        if value not in (0, 1):
            raise self._cannot("minProperties", place, "more than one, and more than 'required'")
        kept["minProperties"] = value

    def _cannot(self, keyword: str, place: str, what: str = "") -> InvalidRequestError:
        with_what = f" with {what}" if what else ""
        return self._refuse(
            f"uses the keyword {keyword!r}{with_what}{_at(place)}, which cannot be enforced: leave"
            " it out, or say it in another way"
        )


def _within(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _at(place: str) -> str:
    shown = place if len(place) <= _SHOWN else f"...{place[-_SHOWN:]}"
    return f" at {shown}" if shown else ""


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "null" if value is None else "a number")

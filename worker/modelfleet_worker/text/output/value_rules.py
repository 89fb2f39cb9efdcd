"""The grammar of values that a format does not write as JSON, by the schema of a tool."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from ...errors import InvalidRequestError
from ..schema_references import MISSING, pointed_at
from .rules import Rules, ToolSchema, quoted

_ANY_DEPTH: Final = 3  # lists and objects within each other, where a schema says nothing
_BOUNDS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
# Of each type: the keywords that are held to, and those that values of it cannot be held to.
_KEYWORDS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "object": (
        ("properties", "required", "additionalProperties"),
        ("patternProperties", "minProperties", "maxProperties"),
    ),
    "array": (("items", "minItems", "maxItems"), ("prefixItems", "additionalItems")),
    "string": (("minLength", "maxLength"), ("pattern", "format")),
    "number": (_BOUNDS, ()),
    "integer": (_BOUNDS, ()),
    "boolean": ((), ()),
    "null": ((), ()),
}
# Within 64 bits, and within float64.
_INTEGER: Final = "/-?(0|[1-9][0-9]{0,17})/"
_NUMBER: Final = r"/-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][-+]?[0-9]{1,2})?/"
_NO_ASSERTIONS: Final = frozenset(("$defs", "definitions", "x-guidance"))


class Notation(ABC):
    """How values are written. What methods return stands in a rule of Lark."""

    true: str
    false: str
    null: str
    comma: str  # between values of a list, and between those of an object; in Lark

    @abstractmethod
    def string(self, rules: Rules, least: int, most: int | None) -> str:
        """Any string of so many characters."""

    @abstractmethod
    def text(self, rules: Rules, value: str) -> str:
        """This string."""

    @abstractmethod
    def key(self, rules: Rules, name: str) -> str:
        """This key of an object, up to its value."""

    @abstractmethod
    def any_key(self, rules: Rules) -> str:
        """Some key, up to its value."""


def length(least: int, most: int | None) -> str:
    """How often what stands before it in a regular expression comes."""
    return f"{{{least},{'' if most is None else most}}}" if least or most is not None else "*"


def limits_name(least: int, most: int | None) -> str:
    """The part of a terminal's name that says how long it is."""
    return f"{least}_{'X' if most is None else most}"


class ValueRules:
    """Of the arguments of one tool. Raises InvalidRequestError for what cannot be held to."""

    def __init__(self, rules: Rules, notation: Notation, tool: ToolSchema) -> None:
        self.root: Any = json.loads(tool.json)  # what is enforced of the tool's schema
        self._rules = rules
        self._notation = notation
        self._tool = tool.name
        self._referenced: dict[str, str] = {}  # the rule of each reference; empty: not yet whole

    def value(self, schema: Any) -> str:
        """What is valid by the schema."""
        if schema is False:
            raise self._cannot("false")
        if schema is True or not (keywords := schema.keys() - _NO_ASSERTIONS):
            return self._any(_ANY_DEPTH)
        for keyword in ("$ref", "allOf", "anyOf", "oneOf"):
            if keyword in keywords:
                if len(keywords) > 1:
                    raise self._cannot(keyword)
                return self._applied(keyword, schema[keyword])
        if "enum" in keywords or "const" in keywords:
            return self._one_of(schema, keywords)
        return _either([self._of_type(schema, kind) for kind in _types(schema)])

    def arguments(self, key: Callable[[str], str], any_key: str) -> str:
        """Keys, as these write them, with their values."""
        known = {"type", *_KEYWORDS["object"][0]}
        for keyword in self.root.keys() - _NO_ASSERTIONS - known:
            raise self._cannot(keyword)
        return self._members(self.root, key, any_key)

    def _members(self, schema: Any, key: Callable[[str], str], any_key: str) -> str:
        """Of an object, in the order of the schema."""
        properties, required = schema.get("properties", {}), schema.get("required", ())
        others = schema.get("additionalProperties", True)
        listed = properties | {name: others for name in required if name not in properties}
        if listed:
            return self._in_order(
                [
                    (f"{key(name)} {self.value(one)}", name in required)
                    for name, one in listed.items()
                    if one is not False or name in required
                ]
            )
        return "" if others is False else self._any_members(any_key, self.value(others))

    def _in_order(self, members: Sequence[tuple[str, bool]]) -> str:
        """With a comma between those that are there; the flag: it must be."""
        rest, firsts = "", list[str]()
        for member, is_required in reversed(members):
            name = self._rules.new("member", member)
            firsts.insert(0, f"{name} {rest}")
            if is_required:  # none behind it comes first
                del firsts[1:]
            more = f"({self._notation.comma} {name}){'' if is_required else '?'} {rest}"
            rest = self._rules.new("more", more)
        if not firsts:
            return ""
        first = _either(firsts)
        return first if any(is_required for _, is_required in members) else f"{first}?"

    def _any_members(self, any_key: str, value: str) -> str:
        member = self._rules.new("member", f"{any_key} {value}")
        return f"({member} ({self._notation.comma} {member})*)?"

    def _applied(self, keyword: str, value: Any) -> str:
        """What further schemas say."""
        if keyword == "$ref":
            return self._reference(value)
        if keyword == "oneOf" or (keyword == "allOf" and len(value) > 1):
            raise self._cannot(keyword)
        return _either([self.value(one) for one in value])

    def _reference(self, reference: str) -> str:
        if reference not in self._referenced:
            self._referenced[reference] = ""
            schema = pointed_at(reference, self.root)
            if schema is MISSING:
                raise self._cannot("$ref")
            self._referenced[reference] = self._rules.new("referenced", self.value(schema))
        if not self._referenced[reference]:
            raise self._cannot("$ref", " to a schema around it")  # parsers end at some depth
        return self._referenced[reference]

    def _one_of(self, schema: Any, keywords: set[str]) -> str:
        """Values that are named."""
        for keyword in ("enum", "const"):
            if keyword in keywords and keywords <= {keyword, "type"}:
                values = schema["enum"] if keyword == "enum" else [schema["const"]]
                kinds = _types(schema) if "type" in keywords else _KEYWORDS
                fit = [v for v in values if any(_is_of(v, kind) for kind in kinds)]
                if fit:
                    return _either([self._literal(one) for one in fit])
        raise self._cannot("enum" if "enum" in keywords else "const")

    def _literal(self, value: Any) -> str:
        notation = self._notation
        match value:
            case None:
                return quoted(notation.null)
            case bool():
                return quoted(notation.true if value else notation.false)
            case str():
                return notation.text(self._rules, value)
            case list():
                inside = [self._literal(one) for one in value]
                return f'"[" {self._joined(inside)} "]"'
            case dict():
                members = (
                    f"{notation.key(self._rules, k)} {self._literal(v)}" for k, v in value.items()
                )
                return f'"{{" {self._joined(members)} "}}"'
            case _:
                return quoted(json.dumps(value))

    def _joined(self, parts: Iterable[str]) -> str:
        return f" {self._notation.comma} ".join(parts)

    def _of_type(self, schema: Any, kind: str) -> str:
        held, not_held = _KEYWORDS[kind]
        for keyword in not_held:
            if keyword in schema:
                raise self._cannot(keyword)
        match kind:
            case "object":
                return f'"{{" {self._members_of(schema)} "}}"'
            case "array":
                return f'"[" {self._items(schema)} "]"'
            case "string":
                least, most = schema.get("minLength", 0), schema.get("maxLength")
                return self._notation.string(self._rules, least, most)
            case "boolean":
                return _either([self._literal(False), self._literal(True)])
            case "null":
                return self._literal(None)
        bounds = {keyword: schema[keyword] for keyword in held if keyword in schema}
        if bounds:
            return self._rules.new("number", f"%json {json.dumps({'type': kind, **bounds})}")
        return self._number(kind)

    def _members_of(self, schema: Any) -> str:
        rules, notation = self._rules, self._notation
        return self._members(
            schema, lambda name: notation.key(rules, name), notation.any_key(rules)
        )

    def _items(self, schema: Any) -> str:
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        items = schema.get("items", True)
        if most == 0 or (items is False and not least):
            return ""
        item = self._rules.new("item", self.value(items))
        others = length(max(least - 1, 0), None if most is None else most - 1)
        more = "" if most == 1 else f"({self._notation.comma} {item}){others}"
        found = f"{item} {more}"
        return found if least else f"({found})?"

    def _any(self, depth: int) -> str:
        """Anything, with so many lists and objects within each other."""
        rules, notation, name = self._rules, self._notation, f"any_{depth}"
        if name in rules.defined:
            return name
        kinds = [notation.string(rules, 0, None), self._number("number")]
        kinds += [self._literal(value) for value in (True, False, None)]
        if depth:
            inner = self._any(depth - 1)
            kinds.append(f'"[" ({inner} ({notation.comma} {inner})*)? "]"')
            members = self._any_members(notation.any_key(rules), inner)
            kinds.append(f'"{{" {members} "}}"')
        return rules.define(name, _either(kinds))

    def _number(self, kind: str) -> str:
        body = _INTEGER if kind == "integer" else _NUMBER
        return self._rules.define(kind.upper(), body)

    def _cannot(self, keyword: str, what: str = "") -> InvalidRequestError:
        return InvalidRequestError(
            f"the tool {self._tool!r} has the keyword {keyword!r}{what} in its schema: this model"
            " does not write arguments as JSON, and they cannot be held to it"
        )


def _either(choices: Sequence[str]) -> str:
    return f"({' | '.join(choices)})"


def _types(schema: Any) -> Sequence[str]:
    """That values may be of; of those that keywords are about, if the schema does not say it."""
    declared = schema.get("type")
    if declared is not None:
        return [declared] if isinstance(declared, str) else declared
    return [next(k for k, (held, others) in _KEYWORDS.items() if schema.keys() & {*held, *others})]


def _is_of(value: Any, kind: str) -> bool:
    match value:
        case None:
            return kind == "null"
        case bool():
            return kind == "boolean"
        case int() | float():
            return kind == "number" or (kind == "integer" and float(value).is_integer())
        case str():
            return kind == "string"
        case list():
            return kind == "array"
    return kind == "object"

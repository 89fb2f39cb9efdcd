"""Typed access to the fields of a config.json. Imports no torch."""

from __future__ import annotations

from typing import Any

from ..errors import ModelError

# Far beyond any model there is, and far below where sizes overflow: whether so much fits is asked
# when the model's shape is known, but that must not take memory by itself.
WIDEST = 2**24
LONGEST_CONTEXT = 2**30  # tokens
_HUGE = 2.0**1000


class Fields:
    """Typed access to a JSON object; every miss is a ModelError that names the field."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw

    def integer(self, name: str, default: int | None = None, *, most: int = WIDEST) -> int:
        """A positive one, `most` at most. Raises ModelError."""
        found = self.raw.get(name)
        found = default if found is None else found
        if type(found) is not int or found < 1:
            raise ModelError(f"config.json: {name} is {found!r}: a positive integer is expected")
        if found > most:
            raise ModelError(f"config.json: {name} is {found}: at most {most} is expected")
        return found

    def number(self, name: str, default: float | None = None) -> float:
        """A positive one. Raises ModelError."""
        found = self.raw.get(name)
        found = default if found is None else found
        if isinstance(found, int | float) and type(found) is not bool and 0 < found < _HUGE:
            return float(found)
        raise ModelError(f"config.json: {name} is {found!r}: a positive number is expected")

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false. Raises ModelError."""
        found = self.raw.get(name)
        found = default if found is None else found
        if type(found) is not bool:
            raise ModelError(f"config.json: {name} is {found!r}: true or false is expected")
        return found

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """A list of `count` positive numbers. Raises ModelError."""
        found = self.raw.get(name)
        if not isinstance(found, list) or len(found) != count:
            raise ModelError(f"config.json: {name} is expected to be a list of {count} numbers")
        return tuple(Fields({name: value}).number(name) for value in found)

"""Strings with a meaning: durations (`90s`, `1h30m`) and memory quantities (`2Gi`).

A `Format` is both the pydantic validator and the pattern in the CRD's schema, so that a manifest is
read alike by `modelfleet up` and by a Kubernetes API server.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True, slots=True)
class Portion:
    """Annotates a field that is a count or a percentage ("25%"), as apps/v1 writes it."""

    most: int  # the largest count; a percentage is 100% at most

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(
        self, _: CoreSchema, __: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "minimum": 0,
            "maximum": self.most,
            "maxLength": 4,
            "pattern": f"^({_PERCENT})$",
        }

    def check(self, value: Any) -> int | str:
        """The value itself; ValueError says what was expected."""
        is_count = isinstance(value, int) and not isinstance(value, bool)
        if is_count and 0 <= value <= self.most:
            return int(value)
        if isinstance(value, str) and re.fullmatch(_PERCENT, value):
            return value
        raise ValueError(f'expected a number from 0 to {self.most}, or percent such as "25%"')


_PERCENT = "(0|[1-9][0-9]?|100)%"


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """Annotates a field whose manifest value is a string of a pattern and of bounded length."""

    what: str  # completes "expected ..."
    pattern: str  # in RE2's and Python's common syntax, without anchors
    max_length: int
    parse: Callable[[str], Any] = str
    show: Callable[[Any], str] = str

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.check,
            serialization=core_schema.plain_serializer_function_ser_schema(self.show),
        )

    def __get_pydantic_json_schema__(
        self, _: CoreSchema, __: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^({self.pattern})$", "maxLength": self.max_length}

    def check(self, value: Any) -> Any:
        """The parsed value; ValueError says what was expected."""
        if not isinstance(value, str):
            raise ValueError(f"expected {self.what}, as a string")
        if len(value) > self.max_length:
            raise ValueError(f"expected {self.what}, of at most {self.max_length} characters")
        if not re.fullmatch(self.pattern, value):
            raise ValueError(f"expected {self.what}")
        return self.parse(value)


_SECONDS = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
_BYTES = {
    **{unit: 1000**power for power, unit in enumerate(["", "k", "M", "G", "T"])},
    **{unit: 1024**power for power, unit in enumerate(["Ki", "Mi", "Gi", "Ti"], start=1)},
}


def parse_duration(text: str) -> float:
    """Seconds of a valid duration."""
    return float(sum(int(n) * _SECONDS[unit] for n, unit in re.findall(r"(\d+)(ms|[hms])", text)))


def show_duration(seconds: float) -> str:
    """The shortest way to write it: 5400.0 is `1h30m`, 0.0 is `0s`."""
    rest, text = round(seconds * 1000), ""
    for unit, size in [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)]:
        count, rest = divmod(rest, size)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def parse_quantity(text: str) -> int:
    """Bytes of a valid quantity, rounded down."""
    number, unit = re.fullmatch(r"([\d.]+)(\D*)", text, re.ASCII).groups()  # type: ignore[union-attr]  # the pattern matched
    return int(Decimal(number) * _BYTES[unit])


def parse_amount(text: str) -> Decimal | None:
    """Any quantity of a resource, as 0.5 of "500m"; None for a spelling that is not known here."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?", text, re.ASCII)
    if found is None:
        return None
    unit = found[2] or ""
    return Decimal(found[1]) * (Decimal("0.001") if unit == "m" else _BYTES[unit])


def show_quantity(count: int) -> str:
    """In the largest binary unit that divides it: 2147483648 is `2Gi`."""
    for unit in ["Ti", "Gi", "Mi", "Ki"]:
        if count and count % _BYTES[unit] == 0:
            return f"{count // _BYTES[unit]}{unit}"
    return str(count)


def parse_fraction(text: str) -> Decimal:
    """A part of one: "1/7" to 28 digits, "0.25"."""
    numerator, _, denominator = text.partition("/")
    return Decimal(numerator) / Decimal(denominator or 1)


def show_fraction(part: Decimal) -> str:
    """As it was written, or as short as it was: 1/7, 0.25, 1."""
    text = format(part.normalize(), "f")
    return text if len(text) <= 8 else f"1/{round(1 / part)}"


def parse_moment(text: str) -> float:
    """Unix seconds."""
    return datetime.datetime.fromisoformat(text).timestamp()


def show_moment(seconds: float) -> str:
    """In UTC, whole seconds."""
    moment = datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


Money = Annotated[
    Decimal,
    Format(
        what='an amount of money such as "2.50"',
        pattern=r"[0-9]{1,9}(\.[0-9]{1,6})?",
        max_length=16,
        parse=Decimal,
        show=str,
    ),
]
Fraction = Annotated[
    Decimal,
    Format(
        what='a fraction such as "1/7" or "0.25"',
        pattern=r"1/[1-9][0-9]{0,2}|[0-9]{1,3}(\.[0-9]{1,6})?",
        max_length=10,
        parse=parse_fraction,
        show=show_fraction,
    ),
]
_DAY = (
    r"20[0-9]{2}-(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|20[0-9]{2}-(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    r"|20[0-9]{2}-02-(0[1-9]|1[0-9]|2[0-8])|20([02468][048]|[13579][26])-02-29"
)
# RFC 3339 in UTC, whole seconds; read as Unix seconds.
Moment = Annotated[
    float,
    Format(
        what="a moment such as 2027-01-01T00:00:00Z",
        pattern=rf"({_DAY})T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z",
        max_length=20,
        parse=parse_moment,
        show=show_moment,
    ),
]
Percent = Annotated[
    int,
    Format(
        what='percent such as "50%"',
        pattern=_PERCENT,
        max_length=4,
        parse=lambda text: int(text.removesuffix("%")),
        show=lambda percent: f"{percent}%",
    ),
]
CronLine = Annotated[
    str,
    Format(
        what="five fields of cron such as 0 8 * * 1-5",
        pattern=r"[0-9A-Za-z*,/#L-]{1,64}( [0-9A-Za-z*,/#L-]{1,64}){4}",
        max_length=200,
    ),
]
TimeZone = Annotated[
    str,
    Format(
        what="a time zone such as Europe/Berlin",
        pattern="[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}",
        max_length=98,
    ),
]
# GEP-2257: Kubernetes' own strict subset of Go's durations.
Duration = Annotated[
    float,
    Format(
        what="a duration such as 90s, 5m or 1h30m",
        pattern="([0-9]{1,5}(h|m|s|ms)){1,4}",
        max_length=28,
        parse=parse_duration,
        show=show_duration,
    ),
]
Memory = Annotated[
    int,
    Format(
        what="an amount of memory such as 512Mi or 2Gi",
        pattern=r"[1-9][0-9]{0,14}(\.[0-9]{1,3})?(k|M|G|T|Ki|Mi|Gi|Ti)?",
        max_length=21,
        parse=parse_quantity,
        show=show_quantity,
    ),
]

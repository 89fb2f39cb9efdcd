"""What a generation_config.json says about drawing tokens, checked. Imports no torch."""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from ..errors import ModelError
from .config import read_json

_FILE: Final = "generation_config.json"
# Least and most, which are those of a request; a temperature may be higher there than the API lets
# clients ask for.
_RANGES: Final = {
    "temperature": (0.0, 100.0),
    "top_p": (2.0**-126, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (1 / 16, 16.0),
}
_MOST_K: Final = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingDefaults:
    """Values for what a request leaves unsaid; None: the API's own default stays.

    They are float32's, as those of requests are: a value by default draws what the same value in a
    request draws.
    """

    temperature: float | None = None  # 0 is greedy
    top_k: int | None = None  # 0 is off
    top_p: float | None = None
    min_p: float | None = None  # 0 is off
    repetition_penalty: float | None = None  # 1 is off

    def __str__(self) -> str:
        """Those that there are: "top_p=0.8 repetition_penalty=1.05"."""
        found = ((field.name, getattr(self, field.name)) for field in fields(self))
        return " ".join(f"{name}={value:g}" for name, value in found if value is not None)


NO_DEFAULTS: Final = SamplingDefaults()


def sampling_defaults(folder: Path) -> SamplingDefaults:
    """Of the model in `folder`; none without a file. Raises ModelError for what cannot be drawn by.

    `do_sample` is not looked at, as vLLM does not: clients say `temperature: 0`.
    """
    path = folder / _FILE
    raw = read_json(path) if path.exists() else {}
    return SamplingDefaults(
        temperature=_number(raw, "temperature"),
        top_k=_top_k(raw),
        top_p=_number(raw, "top_p"),
        min_p=_number(raw, "min_p"),
        repetition_penalty=_number(raw, "repetition_penalty"),
    )


def _number(raw: dict[str, Any], name: str) -> float | None:
    least, most = _RANGES[name]
    found = raw.get(name)
    if found is None:
        return None
    if isinstance(found, int | float) and type(found) is not bool and least <= found <= most:
        rounded: float = struct.unpack("f", struct.pack("f", found))[0]
        return rounded
    raise _unusable(name, found, f"a number from {least:g} to {most:g}")


def _top_k(raw: dict[str, Any]) -> int | None:
    found = raw.get("top_k")
    if found is None:
        return None
    if type(found) is int and -1 <= found <= _MOST_K:
        return max(0, found)
    raise _unusable("top_k", found, "a count of tokens, or 0 or -1 for all of them,")


def _unusable(name: str, found: object, expected: str) -> ModelError:
    return ModelError(
        f"{_FILE}: {name} is {found!r}: {expected} is expected; correct it, or set"
        " spec.model.generationDefaults to None"
    )

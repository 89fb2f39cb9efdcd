"""Runs chat templates, which are programs of the checkpoint's, within bounds.

A template runs in the sandbox of `template_environment`, which keeps it from files, modules and
attributes, and bounds range(). Nested loops, recursion, and arithmetic on numbers of any size would
still block every stream of the worker: they are bounded here. Not bounded is the memory of texts
that a template makes ever longer: such a checkpoint harms its own worker.
"""

from __future__ import annotations

import operator
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from types import FrameType
from typing import Any

from ..errors import InvalidRequestError

_LARGEST = 1_000_000  # bits of a product, or items that * makes of a text or a list
# The thread that renders holds the GIL: after so many lines it lets the event loop and the engine
# have it, instead of making each of them wait for the interpreter's switch interval (5 ms).
_LINES_A_BREATH, _BREATH = 5_000, 0.0005  # a breath is in seconds


class _TooMuchError(Exception):
    """The template does more than any real one."""


def render_template(template: str, variables: Mapping[str, Any], lines: int) -> str:
    """The text, made in at most so many lines of Python.

    Raises InvalidRequestError for what the template refuses, and for more lines.
    """
    from jinja2 import TemplateError

    try:
        compiled = _compiled(template)
        with _at_most(lines):
            text = str(compiled.render(**variables))
        if not text.isascii():
            text.encode()  # a literal in a template may be half of a character
    except (
        *(TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError),
        *(_TooMuchError, RecursionError, MemoryError),
    ) as error:
        raise InvalidRequestError(
            f"the model's chat template refuses these messages: {error or type(error).__name__}"
        ) from error
    return text


def prepare_templates() -> None:
    """Imports what compiling a template takes, so that the first chat need not wait for it."""
    _compiled("")


@lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    """As transformers compiles it, with products that are bounded."""
    from .template_environment import chat_environment

    # Bounded before it sees the template: a compiler computes constants.
    environment: Any = chat_environment()
    environment.intercepted_binops = frozenset({"*", "**"})
    environment.call_binop = _bounded
    return environment.from_string(template)


def _bounded(_context: Any, sign: str, left: Any, right: Any) -> Any:
    """One multiplication: it runs in C, where nothing would stop it."""
    size = _bits(left) * right if sign == "**" and isinstance(right, int) else 0
    if sign == "*":
        ints = isinstance(left, int) and isinstance(right, int)
        size = _bits(left) + _bits(right) if ints else _items(left, right)
    if size > _LARGEST:
        raise _TooMuchError(f"{sign} makes something too large")
    return operator.pow(left, right) if sign == "**" else operator.mul(left, right)


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _items(left: Any, right: Any) -> int:
    times, repeated = (left, right) if isinstance(left, int) else (right, left)
    return times * len(repeated) if isinstance(times, int) and hasattr(repeated, "__len__") else 0


@contextmanager
def _at_most(lines: int) -> Iterator[None]:
    """Ends what runs in the block, in this thread, after so many lines of Python."""
    used = 0

    def count(_frame: FrameType, _event: str, _argument: object) -> Any:
        nonlocal used
        used += 1
        if used % _LINES_A_BREATH == 0:
            if used > lines:
                raise _TooMuchError(f"it runs for longer than {lines} lines")
            time.sleep(_BREATH)
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(before)

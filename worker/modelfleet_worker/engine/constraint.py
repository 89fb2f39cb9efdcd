"""What an answer's tokens are held to, as the engine sees it: which may come next, and the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class MaskWriter(Protocol):
    """Writes the masks of several answers of one model."""

    def write(self, constraints: Sequence[Constraint], address: int, words: int) -> None:
        """A row for each, one after another from `address`, of `words` 32-bit words.

        Bit i (from the lowest of the first word) says whether token i may come next. One that fails
        gets a row that allows all, and its `error`. Lets go of the GIL while it computes.
        """
        ...


class Constraint(Protocol):
    """The state of one answer. It is used by the engine's thread alone once it is submitted."""

    @property
    def writer(self) -> MaskWriter:
        """The same for all constraints of an engine."""
        ...

    @property
    def error(self) -> str:
        """Why it cannot be followed any further; empty: it can."""
        ...

    def accept(self, token_id: int) -> bool:
        """Takes the next token of the answer; whether the answer is complete with it.

        Not the tokens that end a request anyway.
        """
        ...

"""What the service asks of a tokenizer, whichever device stands behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str
    name: str = ""


class Pieces(Protocol):
    """The bytes that token ids stand for."""

    def piece(self, token_id: int) -> bytes:
        """The token's own bytes, maybe not whole characters; special tokens as they are written."""
        ...

    def text_piece(self, token_id: int, *, first: bool) -> bytes:
        """What the token adds to the text: nothing if special, no leading space if `first`."""
        ...


class Tokenizer(Pieces, Protocol):
    """Pure functions of the model's files; safe to call from any thread."""

    @property
    def digest(self) -> str:
        """Of all files that decide how text becomes ids and ids become text."""
        ...

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end an answer."""
        ...

    def least_tokens(self, text: str) -> int:
        """The text has at least this many ids: known without tokenizing it."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The ids of a text."""
        ...

    def render_chat(
        self, messages: Sequence[Message], *, created: float, add_generation_prompt: bool
    ) -> str:
        """The prompt's text; `created` (Unix seconds) is the template's now.

        Raises InvalidRequestError for what the model's template refuses.
        """
        ...

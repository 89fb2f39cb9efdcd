"""What the service asks of a tokenizer, whichever device stands behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .output.styles import OutputStyle

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str
    name: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()  # OpenAI's, with arguments as they were sent
    tool_call_id: str = ""  # of a tool: the call that it answers
    reasoning: str = ""  # of an assistant


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """What a chat template is given."""

    messages: Sequence[Message]
    add_generation_prompt: bool = True
    created: float = 0.0  # the template's now, in seconds since the epoch
    tools: Sequence[Mapping[str, Any]] | None = None  # OpenAI's list; none is not the same as empty
    arguments: Mapping[str, Any] | None = None  # more variables


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
    def style(self) -> OutputStyle:
        """How the model writes calls and reasoning."""
        ...

    @property
    def mark_ids(self) -> Mapping[int, str]:
        """Special tokens that a parser of answers has to see, and how they are written."""
        ...

    def special_id(self, text: str) -> int | None:
        """The id of a text that is one special token."""
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

    def render_chat(self, chat: Chat) -> str:
        """The prompt's text. Raises InvalidRequestError for what the model's template refuses."""
        ...

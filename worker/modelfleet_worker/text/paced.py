"""The tokenizer of the paced device: words to ids and back, with no model behind it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping

from .output.styles import PLAIN, OutputStyle
from .tokenizer import Chat

# One to four bytes a character, so that streams of paced workers exercise UTF-8.
_WORDS = (
    *("the", "fleet", "wakes", "when", "asked", "and", "sleeps", "when-idle", "naïve", "café"),
    *("Größe", "дом", "λόγος", "שלום", "भाषा", "ไทย", "世界", "かな", "한국어", "🚀", "🦊🌍"),
)
_LONGEST_WORD = 16  # characters; a longer one becomes several ids, as in a real tokenizer


class PacedTokenizer:
    """Id 0 ends the sequence, each other one is a word with its leading space."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self.digest = hashlib.sha256(f"paced words 1 {vocab_size}".encode()).hexdigest()
        self.eos_ids = frozenset({0})
        self.style: OutputStyle = PLAIN
        self.mark_ids: Mapping[int, str] = {}

    def piece(self, token_id: int) -> bytes:
        """The word with its space."""
        return f" {self._word(token_id)}".encode() if 0 < token_id < self._vocab_size else b""

    def text_piece(self, token_id: int, *, first: bool) -> bytes:
        """A text does not begin with a space."""
        piece = self.piece(token_id)
        return piece.removeprefix(b" ") if first else piece

    def least_tokens(self, text: str) -> int:
        """Hashing the words is what takes the time, not counting them."""
        return sum(-(-len(word) // _LONGEST_WORD) for word in text.split())

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The id of a word of ours; of any other word, an id that its hash picks."""
        return [self._id(word) for word in _split(text)]

    def special_id(self, text: str) -> int | None:
        """There are none."""
        return None

    def render_chat(self, chat: Chat) -> str:
        """One line a turn."""
        turns = [f"{message.role}: {message.content}\n" for message in chat.messages]
        return "".join([*turns, "assistant: " if chat.add_generation_prompt else ""])

    def _word(self, token_id: int) -> str:
        number, index = divmod(token_id - 1, len(_WORDS))
        return f"{_WORDS[index]}{number or ''}"

    def _id(self, word: str) -> int:
        match = re.fullmatch(r"(.*?)([1-9][0-9]*)?", word, re.DOTALL)
        if match is not None and match[1] in _WORDS:
            token_id = int(match[2] or 0) * len(_WORDS) + _WORDS.index(match[1]) + 1
            if token_id < self._vocab_size:
                return token_id
        digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
        return int.from_bytes(digest) % (self._vocab_size - 1) + 1


def _split(text: str) -> Iterator[str]:
    for word in text.split():
        for start in range(0, len(word), _LONGEST_WORD):
            yield word[start : start + _LONGEST_WORD]

"""Texts as an encoder takes them: their ids, with the special tokens around them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import tokenizers

from ..errors import ModelError


class SentenceTokenizer:
    """A fast tokenizer; safe to call from any thread. Raises ModelError for a folder without."""

    def __init__(self, folder: Path, *, prompt: str = "", lower_case: bool = False) -> None:
        """`prompt` comes before each text, which is lowered with it if `lower_case`."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(f"{folder} has no tokenizer.json: only fast tokenizers are supported")
        try:
            content = path.read_bytes()
            self._backend = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:  # the library raises whatever the file provokes
            raise ModelError(f"cannot read {path}: {error}") from error
        self._backend.no_truncation()  # a text is taken whole, cut as asked for, or refused
        self._backend.no_padding()
        self._prompt, self._lower_case = prompt, lower_case
        text = f"{prompt!r} {lower_case}".encode()
        self.digest = hashlib.sha256(hashlib.sha256(content).digest() + text).hexdigest()

    @property
    def special_tokens(self) -> int:
        """How many are put around a text."""
        return int(self._backend.num_special_tokens_to_add(is_pair=False))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        made = [self._made(text) for text in texts]
        return [encoding.ids for encoding in self._backend.encode_batch_fast(made)]

    def cut(self, ids: list[int], most: int) -> list[int]:
        """So many ids at most: of the text, its end is cut off, before the special tokens."""
        if len(ids) <= most:
            return ids
        ends = self._ids_after_text
        return ids[: most - len(ends)] + ends

    @property
    def _ids_after_text(self) -> list[int]:
        """The special tokens that follow a text."""
        empty, some = self.encode([""])[0], self._backend.encode("a").ids
        after = 0
        while after < len(empty) and empty[-1 - after] == some[-1 - after]:
            after += 1
        return empty[len(empty) - after :]

    def _made(self, text: str) -> str:
        made = self._prompt + text
        return made.lower() if self._lower_case else made

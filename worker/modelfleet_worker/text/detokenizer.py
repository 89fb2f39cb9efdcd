"""Ids to text, token by token; a character is released when its last byte is there."""

from __future__ import annotations

import codecs

from .tokenizer import Pieces


class Detokenizer:
    """The text released so far is a pure function of the ids so far; constant time a token.

    All of it, `flush` included, is what decoding all ids at once gives (see pieces.py).
    """

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._started = False
        # Bytes that can never become a character are U+FFFD, as in every lossy UTF-8 decoder.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The characters that this token completes."""
        piece = self._pieces.text_piece(token_id, first=not self._started)
        if not self._started and self._pieces.text_piece(token_id, first=False):
            self._started = True
        return self._decoder.decode(piece)

    def flush(self) -> str:
        """What is left of an unfinished character, once no token follows."""
        return self._decoder.decode(b"", final=True)

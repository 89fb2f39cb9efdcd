"""The bytes of each token, read off the decoder that a fast tokenizer declares.

`tokenizer.decode` needs all ids at once. With the bytes of single tokens, text can be released
token by token, and a log-probability can be reported for a token that is half a character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ..errors import ModelError

_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class DecoderPieces:
    """For byte-level (GPT-2, Llama 3, Qwen) and SentencePiece-like (Llama 2, Gemma) decoders.

    Joined and read as UTF-8, they are what `tokenizers` decodes, save that `tokenizers` gives up a
    whole run of byte-fallback tokens for one wrong byte, where only that byte is replaced here.
    """

    def __init__(
        self,
        token_of: Callable[[int], str | None],
        special_ids: frozenset[int],
        decoder: Mapping[str, Any],
    ) -> None:
        self._token_of = token_of
        self._special_ids = special_ids
        self._to_bytes, self._first_to_bytes = _read_decoder(decoder)
        self._known: dict[int, bytes] = {}

    def piece(self, token_id: int) -> bytes:
        """The token's own bytes."""
        known = self._known.get(token_id)
        if known is None:
            token = self._token_of(token_id)
            known = self._known[token_id] = b"" if token is None else self._to_bytes(token)
        return known

    def text_piece(self, token_id: int, *, first: bool) -> bytes:
        """What it adds to the text."""
        if token_id in self._special_ids:
            return b""
        if not first:
            return self.piece(token_id)
        token = self._token_of(token_id)
        return b"" if token is None else self._first_to_bytes(token)


ToBytes = Callable[[str], bytes]


@dataclass(slots=True)
class _Rules:
    """What the steps of a decoder come down to."""

    byte_level: bool = False
    byte_fallback: bool = False
    replacements: list[tuple[str, str]] = field(default_factory=list)
    dropped: str = ""  # the mark of a space that the first token of a text loses
    strips: bool = False  # a text loses one leading space


def _read_decoder(decoder: Mapping[str, Any]) -> tuple[ToBytes, ToBytes]:
    """How a token becomes bytes, and how the first one of a text does."""
    rules = _Rules()
    for step in decoder["decoders"] if decoder.get("type") == "Sequence" else [decoder]:
        _read_step(step, rules)

    def to_bytes(token: str) -> bytes:
        if rules.byte_level:
            return _byte_level_bytes(token)
        if rules.byte_fallback and (match := _FALLBACK.fullmatch(token)):
            return bytes([int(match[1], 16)])
        for old, new in rules.replacements:
            token = token.replace(old, new)
        return token.encode()

    def first_to_bytes(token: str) -> bytes:
        piece = to_bytes(token.replace(rules.dropped, "") if rules.dropped else token)
        return piece.removeprefix(b" ") if rules.strips else piece

    return to_bytes, first_to_bytes


def _read_step(step: Mapping[str, Any], rules: _Rules) -> None:
    match step:
        case {"type": "ByteLevel"}:
            rules.byte_level = True
        case {"type": "ByteFallback"}:
            rules.byte_fallback = True
        case {"type": "Fuse"}:
            pass
        case {"type": "Replace", "pattern": {"String": old}, "content": new}:
            rules.replacements.append((old, new))
        case {"type": "Metaspace", "replacement": old, "prepend_scheme": scheme}:
            rules.replacements.append((old, " "))
            rules.dropped = "" if scheme == "never" else old
        case {"type": "Strip", "content": " ", "start": 0 | 1 as start, "stop": 0}:
            rules.strips = bool(start)
        case _:
            raise ModelError(
                "the tokenizer's decoder must be byte-level or SentencePiece-like, "
                f"found the step {dict(step)}"
            )


@cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes are themselves, the others the characters from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def _byte_level_bytes(token: str) -> bytes:
    alphabet = _byte_of_character()
    try:
        return bytes([alphabet[character] for character in token])
    except KeyError:  # an added token, written as plain text
        return token.encode()

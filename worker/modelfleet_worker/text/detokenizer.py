"""From token ids to an answer's text: bytes of tokens, whole characters, stop strings, the end.

`tokenizer.decode` needs all ids at once. With the bytes of single tokens, text can be released
token by token, and a log-probability can be reported for a token that is half a character.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from typing_extensions import override

from ..engine.request import FinishReason
from ..errors import ModelError
from .output.parser import OutputParser
from .output.parts import Part, merge
from .tokenizer import Pieces

_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class Ending:
    """Why an answer ended."""

    reason: FinishReason
    stop_string: str = ""  # the one that matched


class Answer:
    """Grows by one id at a time, replayed or new: a resumed stream goes on as if never cut."""

    def __init__(
        self,
        pieces: Pieces,
        *,
        stops: Sequence[str],
        stop_ids: frozenset[int],
        max_tokens: int,
        marks: Container[int] = (),
    ) -> None:
        """`marks`: special tokens that are text here."""
        self._detokenizer = Detokenizer(pieces, marks)
        self._scanner = StopScanner(stops)
        self._stop_ids = stop_ids
        self._max_tokens = max_tokens
        self.tokens = 0
        self.ending: Ending | None = None

    def push(self, token_id: int) -> str:
        """The text that this id releases. Call it only while `ending` is None."""
        self.tokens += 1
        if token_id in self._stop_ids:  # the token that stops is no part of the text
            self.ending = Ending(FinishReason.STOP)
            return ""
        text = self._scanner.feed(self._detokenizer.push(token_id))
        if self._scanner.found is not None:
            self.ending = Ending(FinishReason.STOP, self._scanner.found)
        elif self.tokens >= self._max_tokens:
            self.ending = Ending(FinishReason.LENGTH)
        return text

    def complete(self) -> None:
        """Nothing may follow what has come: also if it is as long as it may be."""
        if self.ending is None or self.ending.reason is FinishReason.LENGTH:
            self.ending = Ending(FinishReason.STOP)

    def close(self) -> str:
        """What was held back, once the answer has ended; a last character may complete a stop."""
        text = self._scanner.feed(self._detokenizer.flush())
        if self._scanner.found is not None:
            self.ending = Ending(FinishReason.STOP, self._scanner.found)
        return text + self._scanner.flush()


class PartedAnswer(Answer):
    """An answer in parts: what its parser makes of the text."""

    def __init__(
        self,
        pieces: Pieces,
        parser: OutputParser,
        *,
        stops: Sequence[str],
        stop_ids: frozenset[int],
        max_tokens: int,
        marks: Container[int],
    ) -> None:
        super().__init__(pieces, stops=stops, stop_ids=stop_ids, max_tokens=max_tokens, marks=marks)
        self._parser = parser
        self._parts: list[Part] = []

    @override
    def push(self, token_id: int) -> str:
        """No text: see `take`."""
        self._parts += self._parser.feed(super().push(token_id))
        if self._parser.is_done and self.ending is None:
            self.ending = Ending(FinishReason.STOP)
        return ""

    @override
    def close(self) -> str:
        """No text: see `take`."""
        self._parts += self._parser.feed(super().close())
        self._parts += self._parser.close()
        return ""

    @property
    def failed_calls(self) -> int:
        """Calls that the model began and did not write as its format asks."""
        return self._parser.failed_calls

    def take(self) -> list[Part]:
        """What came since the last time."""
        parts, self._parts = merge(self._parts), []
        return parts


class Detokenizer:
    """The text released so far is a pure function of the ids so far; constant time a token.

    All of it, `flush` included, is what decoding all ids at once gives (see DecoderPieces).
    """

    def __init__(self, pieces: Pieces, marks: Container[int] = ()) -> None:
        """`marks`: special tokens that are text here, as they are written."""
        self._pieces = pieces
        self._marks = marks
        self._started = False
        # Bytes that can never become a character are U+FFFD, as in every lossy UTF-8 decoder.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The characters that this token completes."""
        if token_id in self._marks:
            return self._decoder.decode(b"", final=True) + self._pieces.piece(token_id).decode()
        piece = self._pieces.text_piece(token_id, first=not self._started)
        if not self._started and self._pieces.text_piece(token_id, first=False):
            self._started = True
        return self._decoder.decode(piece)

    def flush(self) -> str:
        """What is left of an unfinished character, once no token follows."""
        return self._decoder.decode(b"", final=True)


class StopScanner:
    """Releases text up to the first stop string and holds back what may become one.

    The first is the one that is complete first; of several that end at the same character, the
    longest. It reads character by character (Knuth, Morris, Pratt 1977), so that the result does
    not depend on how the text was cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = sorted(set(stops), key=len, reverse=True)
        self._fallbacks = [_fallbacks(stop) for stop in self._stops]
        self._progress = [0] * len(self._stops)  # characters of each stop that the text ends with
        self._held = ""
        self.found: str | None = None

    def feed(self, text: str) -> str:
        """The text that is certainly before any stop string; nothing more once one was found."""
        if self.found is not None:
            return ""
        if not self._stops:
            return text
        window = self._held + text
        for end in range(len(self._held) + 1, len(window) + 1):
            self._advance(window[end - 1])
            for stop, progress in zip(self._stops, self._progress, strict=True):
                if progress == len(stop):
                    self.found, self._held = stop, ""
                    return window[: end - len(stop)]
        kept = len(window) - max(self._progress)
        self._held = window[kept:]
        return window[:kept]

    def flush(self) -> str:
        """What was held back, once no text follows: it is text."""
        held, self._held = self._held, ""
        return held

    def _advance(self, character: str) -> None:
        for i, (stop, fallbacks) in enumerate(zip(self._stops, self._fallbacks, strict=True)):
            matched = self._progress[i]
            while matched and stop[matched] != character:
                matched = fallbacks[matched - 1]
            self._progress[i] = matched + 1 if stop[matched] == character else 0


def _fallbacks(stop: str) -> list[int]:
    """For each prefix, the length of its longest proper prefix that is also its suffix."""
    lengths = [0] * len(stop)
    for i in range(1, len(stop)):
        length = lengths[i - 1]
        while length and stop[i] != stop[length]:
            length = lengths[length - 1]
        lengths[i] = length + 1 if stop[i] == stop[length] else 0
    return lengths


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

"""Large bodies: what is bulky in them is cut out, and what is left is counted, before it is parsed.

A JSON parser makes an object of each value, and Python's strings take up to four bytes a character:
a body of 8 MiB could take gigabytes. So `cut` walks over the text first. It counts values and
refuses more than any context could hold, and it replaces each long string and each long list of
token ids by a placeholder. What is left, the skeleton, is parsed as any request; the bulky parts
stay text, and go piece by piece into the worker's request.
"""

from __future__ import annotations

import itertools
import json
import re
import secrets
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Final, NoReturn

from modelfleet_proto import worker_pb2

from ..errors import InvalidRequestError

BULKY: Final = 256  # bytes from which a string is cut out
BULKY_IDS: Final = 16 * 1024  # bytes from which a list of token ids is; shorter ones are values
PIECE: Final = 64 * 1024  # bytes that one step works on: less than a millisecond
STEPS: Final = 1000  # values that one slice counts
# Beside token ids: strings, commas, and openings of lists and objects. A message has seven of them
# at least, and takes about as many tokens of a context.
MAX_VALUES: Final = 2**17
MAX_IDS: Final = 2**20  # token ids of one request

QUOTE, OPEN_LIST = b'"'[0], b"["[0]
# What JSON's strings hold, and what they may be cut after; only a window of the text is matched.
STRING: Final = re.compile(rb'(?:[^"\\\x00-\x1f]++|\\.)*+', re.DOTALL)
ESCAPED: Final = re.compile(
    rb"(?:[^\\]++|\\[^u]"
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # two for one character
    rb"|\\u(?![dD][89abAB])[0-9a-fA-F]{4})*+",
    re.DOTALL,
)
PLAIN: Final = re.compile(rb'[^"\[{,]*+')
# One step of most bodies: what is plain, and then an opening, a comma or a short string.
USUAL: Final = re.compile(
    rb'[^"\[{,]{0,256}+(?:[{,]|\[(?![ \t\r\n]*+[0-9])|"(?:[^"\\\x00-\x1f]|\\.){0,256}+")', re.DOTALL
)
ID: Final = rb"[ \t\r\n]*+(?:0|[1-9][0-9]*+)[ \t\r\n]*+"
IDS: Final = re.compile(rb"(?:" + ID + rb",)*+")
LAST_ID: Final = re.compile(ID + rb"\]")

Slices = Generator[None, None, None]


@dataclass(kw_only=True, eq=False)
class Bulk:
    """A large body and what was cut out of it."""

    body: bytearray
    # Placeholders cannot be guessed: a client that could name one would multiply its text.
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    skeleton: bytearray = field(default_factory=bytearray)
    spans: list[tuple[int, int, bool]] = field(default_factory=list)  # start, end, whether ids

    def __post_init__(self) -> None:
        self._placeholder = re.compile(rf"{self.mark}-(\d+)-")

    def cut_out(self, kept: int, begin: int, start: int, end: int, *, ids: bool) -> None:
        """Puts the body from `kept` to `begin` into the skeleton, and for the rest a placeholder.

        `start` and `end` are what it stands for, without quotes or brackets.
        """
        self.skeleton += self.body[kept:begin]
        self.skeleton += f'"{self.mark}-{len(self.spans)}-"'.encode()
        self.spans.append((start, end, ids))

    def is_in(self, text: str) -> bool:
        """Whether a string of the skeleton has a placeholder."""
        return self.mark in text

    def holds_ids(self, text: str) -> bool:
        """Whether the string stands for a list of ids, which is no string."""
        return any(self.spans[int(number)][2] for number in self._placeholder.findall(text))

    def utf8(self, text: str) -> bytes:
        """The string as it was sent. InvalidRequestError for what is no text."""
        if not self.is_in(text):
            return text.encode()
        parts = self._placeholder.split(text)  # text, number, text, number, ...
        return b"".join(
            b"".join(self._unescaped(int(part))) if index % 2 else part.encode()
            for index, part in enumerate(parts)
        )

    def json(self, text: str) -> bytes:
        """JSON whose strings may stand for what was cut out, with it in their place."""
        if not self.is_in(text):
            return text.encode()
        parts = re.split(rf'"{self.mark}-(\d+)-"', text)  # text, number, text, number, ...
        return b"".join(
            b"".join(self._json(int(part))) if index % 2 else part.encode()
            for index, part in enumerate(parts)
        )

    def _json(self, number: int) -> Iterator[bytes]:
        start, end, is_ids = self.spans[number]
        if is_ids:
            yield b"[" + self.body[start:end].translate(None, b" \t\r\n") + b"]"
            return
        yield b'"'
        for piece in self._unescaped(number):
            yield json.dumps(piece.decode(), ensure_ascii=False)[1:-1].encode()
        yield b'"'

    def token_ids(self, text: str) -> bytes:
        """A serialized TokenIds of the ids that the string stands for."""
        (number,) = self._placeholder.findall(text)
        start, end, _ = self.spans[int(number)]
        return b"".join(self._packed(start, end))

    def _unescaped(self, number: int) -> Iterator[bytes]:
        start, end, _ = self.spans[number]
        while start < end:
            stop = ESCAPED.match(self.body, start, min(start + PIECE, end)).end()  # type: ignore[union-attr]
            if stop < end:
                while stop > start and self.body[stop] & 0xC0 == 0x80:
                    stop -= 1
            if stop <= start:
                raise InvalidRequestError("The body is not valid JSON: a wrong escape in a string.")
            piece = bytes(self.body[start:stop])
            try:
                yield json.loads(b'"' + piece + b'"').encode()
            except ValueError as error:
                raise InvalidRequestError(f"The body is not valid JSON: {_why(error)}.") from None
            start = stop

    def _packed(self, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            stop = IDS.match(self.body, start, min(start + PIECE, end)).end()  # type: ignore[union-attr]
            if stop == start:  # the last one has no comma
                stop = end
            ids = map(int, bytes(self.body[start:stop]).rstrip(b",").split(b","))
            try:
                yield worker_pb2.TokenIds(ids=ids).SerializeToString()
            except ValueError as error:
                raise InvalidRequestError(
                    "Invalid 'prompt': a token id is larger than a uint32 can be.", param="prompt"
                ) from error
            start = stop


def cut(body: bytearray) -> Generator[None, None, Bulk]:
    """The bulk of a body, in slices of a millisecond. InvalidRequestError: it has too many values.

    Whether the skeleton is JSON is seen when it is parsed.
    """
    bulk = Bulk(body=body)
    position = kept = values = ids = 0
    for step in itertools.count(1):
        if step % STEPS == 0:
            yield
        values += 1
        if usual := USUAL.match(body, position):
            position = usual.end()
        else:
            begin = yield from _end(PLAIN, body, position)
            if begin == len(body):
                break
            position = begin + 1
            if body[begin] == QUOTE:
                end = yield from _end(STRING, body, position)
                if end == len(body) or body[end] != QUOTE:
                    _invalid("a string that does not end, or holds a control character")
                if end - position > BULKY:
                    bulk.cut_out(kept, begin, position, end, ids=False)
                    kept = end + 1
                position = end + 1
            elif body[begin] == OPEN_LIST:
                run = yield from _end(IDS, body, position)
                count = body.count(b",", position, run)
                last = LAST_ID.match(body, run, run + BULKY)
                if last is None or last.end() - begin <= BULKY_IDS:
                    values += count  # of a list of something else, or of few
                    position = run
                else:
                    ids += count + 1
                    bulk.cut_out(kept, begin, position, last.end() - 1, ids=True)
                    position = kept = last.end()
        if values > MAX_VALUES:
            raise InvalidRequestError(
                f"The body has more than {MAX_VALUES} values beside token ids: more than any "
                "model's context could hold."
            )
        if ids > MAX_IDS:
            raise InvalidRequestError(
                f"The body has more than {MAX_IDS} token ids: more than any model's context could "
                "hold.",
                param="prompt",
            )
    bulk.skeleton += body[kept:]
    return bulk


def _end(pattern: re.Pattern[bytes], body: bytearray, start: int) -> Generator[None, None, int]:
    """Where the pattern's match from `start` ends, found piece by piece."""
    while True:
        stop = pattern.match(body, start, start + PIECE).end()  # type: ignore[union-attr]
        if stop == start or stop < start + PIECE - BULKY:
            return stop
        start = stop
        yield


def _invalid(why: str) -> NoReturn:
    raise InvalidRequestError(f"The body is not valid JSON: {why}.")


def _why(error: ValueError) -> str:
    return "a string is not UTF-8" if isinstance(error, UnicodeError) else "a wrong escape"

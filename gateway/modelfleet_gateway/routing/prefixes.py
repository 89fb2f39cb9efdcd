"""What prompts begin with: keys that prompts with a common beginning share, and who has read them.

A worker's prefix cache has the beginnings that it has read. Which they are follows from what it was
sent: tokens are not needed for that, so the keys are of bytes.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from modelfleet_proto import worker_pb2

# Bytes of a beginning that has a key of its own: fine steps where most prompts end, few of them all
# together. What comes later in a prompt makes no difference to where it goes.
CUTS: Final = (*range(256, 2049, 256), *range(3072, 16385, 1024), *range(20480, 65537, 4096))
LONGEST: Final = CUTS[-1]
MOST_KEPT: Final = 4096  # beginnings of one worker: some 0.7 MB
LONGEST_SESSION: Final = 256  # characters

_REQUEST: Final = worker_pb2.GenerateRequest
_PROMPT: Final = _REQUEST.PROMPT_FIELD_NUMBER << 3 | 2
_IDS: Final = _REQUEST.PROMPT_TOKEN_IDS_FIELD_NUMBER << 3 | 2
_CHAT: Final = _REQUEST.CHAT_FIELD_NUMBER << 3 | 2
_MESSAGE: Final = worker_pb2.Chat.MESSAGES_FIELD_NUMBER << 3 | 2
_OF_SYSTEM: Final = worker_pb2.ChatMessage(role="system").SerializeToString()


@dataclass(frozen=True, slots=True)
class PromptKeys:
    """What decides where a prompt is best sent."""

    size: int  # bytes of the prompt
    cuts: tuple[bytes, ...] = ()  # keys of its first CUTS[0] bytes, its first CUTS[1] bytes, ...
    opening: bytes = b""  # the key of what stays while a conversation grows; empty: of nothing
    session: bytes = b""  # the key of what its client says that it belongs to; empty: nothing


def read_keys(prompt: bytes, *, session: str = "", salt: str = "") -> PromptKeys:
    """The keys of a serialized GenerateRequest whose input stands first.

    `salt`: prompts with different ones have no key in common, as they share no cache.

    The opening of a chat ends with its first message that is not the system's, so that all turns of
    a conversation have the same, and others with the same system prompt have another.
    """
    start, end, opening_end = _find_input(prompt)
    data = memoryview(prompt)[start : min(end, start + LONGEST)]
    opening_end = min(opening_end - start, len(data))
    hashed = hashlib.blake2b(salt.encode() + b"\0", digest_size=8)
    by_session = hashed.copy()
    cuts: list[bytes] = []
    opening = b""
    done = 0
    for cut in CUTS:
        if not opening and cut >= opening_end > 0:
            opening = _finished(hashed, data[done:opening_end])
        if cut > len(data):
            break
        hashed.update(data[done:cut])
        cuts.append(hashed.digest())
        done = cut
    if session:
        by_session.update(session[:LONGEST_SESSION].encode(errors="replace"))
    return PromptKeys(end - start, tuple(cuts), opening, by_session.digest() if session else b"")


def choice_keys(
    prompts: Iterable[bytes], choices_per_prompt: int, *, session: str = "", salt: str = ""
) -> list[PromptKeys]:
    """For all choices of the first prompt, then all of the second, ... (stream.choice_requests)."""
    keys = (read_keys(prompt, session=session, salt=salt) for prompt in prompts)
    return [one for one in keys for _ in range(choices_per_prompt)]


class CachedPrefixes:
    """The beginnings that one worker has read, the latest of them."""

    def __init__(self, most: int = MOST_KEPT) -> None:
        self._most = most
        self._kept: OrderedDict[bytes, None] = OrderedDict()  # the one read last is the last

    def note(self, keys: PromptKeys) -> None:
        """It reads this prompt."""
        kept = self._kept
        for cut in reversed(keys.cuts):  # the shortest stays the longest, as in the worker's cache
            kept[cut] = None
            kept.move_to_end(cut)
        while len(kept) > self._most:
            kept.popitem(last=False)

    def matched(self, keys: PromptKeys) -> int:
        """Bytes of the prompt's beginning that it has read before.

        Where one is kept, the shorter ones of the same prompt are, too.
        """
        cuts, kept = keys.cuts, self._kept
        low, high = 0, len(cuts)
        while low < high:
            middle = (low + high) // 2
            if cuts[middle] in kept:
                low = middle + 1
            else:
                high = middle
        return CUTS[low - 1] if low else 0

    def clear(self) -> None:
        """Its cache is gone."""
        self._kept.clear()


def _finished(hashed: hashlib.blake2b, rest: memoryview) -> bytes:
    copy = hashed.copy()
    copy.update(rest)
    return copy.digest()


def _find_input(request: bytes) -> tuple[int, int, int]:
    """Where the input of a serialized request begins and ends, and where its opening ends.

    Anything else than an input at its beginning counts as none. Of an input other than a chat the
    opening ends with the first cut.
    """
    key = request[0] if request else 0
    if key not in (_PROMPT, _IDS, _CHAT):
        return 0, 0, 0
    size, start = _read_length(request, 1)
    end = start + size
    if key == _IDS and size:
        start = _read_length(request, start + 1)[1]  # they are one packed field
    if key != _CHAT:
        return start, end, min(start + CUTS[0], end)
    at = start
    while at < end and at - start < LONGEST and request[at] == _MESSAGE:
        size, begin = _read_length(request, at + 1)
        at = begin + size
        if not request.startswith(_OF_SYSTEM, begin):
            break
    return start, end, at


def _read_length(data: bytes, at: int) -> tuple[int, int]:
    """A varint, and where what it is the length of begins."""
    value = shift = 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
    return value | data[at] << shift, at + 1

"""Conversations that answers ended with, kept so that later requests can go on from there."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import Final

from ..openai_api.answer import Json

MAX_BYTES: Final = 64 * 1024 * 1024  # of all, as JSON


class ResponseStore:
    """The latest of them, for a while, in this process alone.

    A lock, since large requests are read in threads.
    """

    def __init__(self, *, max_count: int, seconds: float, max_bytes: int = MAX_BYTES) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._kept: OrderedDict[tuple[str, str], tuple[float, str]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def put(self, response_id: str, messages: list[Json], now: float, owner: str = "") -> None:
        """Keeps the messages of a conversation; the oldest go if they are too many.

        `owner`: the tenant, who alone gets them again.
        """
        kept = json.dumps(messages, separators=(",", ":"))
        if len(kept) > self._max_bytes:
            return
        with self._lock:
            self._kept[owner, response_id] = (now, kept)
            self._bytes += len(kept)
            while len(self._kept) > self._max_count or self._bytes > self._max_bytes:
                self._forget_oldest()

    def get(self, response_id: str, now: float, owner: str = "") -> list[Json] | None:
        """Those messages; None if they are not kept, or not any more."""
        with self._lock:
            while self._kept and now - next(iter(self._kept.values()))[0] > self._seconds:
                self._forget_oldest()
            if (owner, response_id) not in self._kept:
                return None
            kept = self._kept[owner, response_id][1]
        messages: list[Json] = json.loads(kept)
        return messages

    def _forget_oldest(self) -> None:
        _, (_, kept) = self._kept.popitem(last=False)
        self._bytes -= len(kept)

"""One answer: its text, and where it ends, as a pure function of its ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..engine.request import FinishReason
from .detokenizer import Detokenizer
from .stops import StopScanner
from .tokenizer import Pieces


@dataclass(frozen=True, slots=True)
class Ending:
    """Why an answer ended."""

    reason: FinishReason
    stop_string: str = ""  # the one that matched


class Answer:
    """Grows by one id at a time, replayed or new: a resumed stream goes on as if never cut."""

    def __init__(
        self, pieces: Pieces, *, stops: Sequence[str], stop_ids: frozenset[int], max_tokens: int
    ) -> None:
        self._detokenizer = Detokenizer(pieces)
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

    def close(self) -> str:
        """What was held back, once the answer has ended; a last character may complete a stop."""
        text = self._scanner.feed(self._detokenizer.flush())
        if self._scanner.found is not None:
            self.ending = Ending(FinishReason.STOP, self._scanner.found)
        return text + self._scanner.flush()

"""Stop strings in a text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence


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

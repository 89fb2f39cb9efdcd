"""What chat and plain answers have in common: the envelope, usage, chunks."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from modelfleet_proto import worker_pb2

Json = dict[str, Any]

LOWEST_LOGPROB: Final = -9999.0  # OpenAI's for "very unlikely"; JSON has no infinity
FINISH_REASONS: Final = {
    worker_pb2.FINISH_REASON_STOP: "stop",
    worker_pb2.FINISH_REASON_LENGTH: "length",
}


class Shape(ABC):
    """How the choices of one kind of answer are written; made anew for each answer."""

    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    @abstractmethod
    def opening(self, index: int) -> Json | None:
        """The first chunk of a choice, if it has one."""

    @abstractmethod
    def part(self, index: int, text: str, logprobs: Json | None) -> Json:
        """A chunk with new text."""

    @abstractmethod
    def closing(self, index: int, finish_reason: str) -> Json:
        """The last chunk of a choice."""

    @abstractmethod
    def whole(self, index: int, text: str, logprobs: Json | None, finish_reason: str) -> Json:
        """A choice of an answer that is not streamed."""

    @abstractmethod
    def logprobs(self, index: int, tokens: Sequence[worker_pb2.TokenLogprobs]) -> Json:
        """New tokens' logprobs."""

    @abstractmethod
    def join_logprobs(self, parts: Sequence[Json]) -> Json:
        """All of a choice's logprobs."""


class Usage:
    """Tokens of an answer. A prompt counts once, however many choices it has."""

    def __init__(self, choices_per_prompt: int) -> None:
        self._choices_per_prompt = choices_per_prompt
        self._prompt = 0
        self._completion = 0
        self._cached = 0

    def count(self, index: int, finished: worker_pb2.Finished) -> None:
        """A choice ended."""
        self._completion += finished.completion_tokens
        if index % self._choices_per_prompt == 0:
            self._prompt += finished.prompt_tokens
            self._cached += min(finished.cached_tokens, finished.prompt_tokens)

    def json(self) -> Json:
        """OpenAI's `usage`."""
        return {
            "prompt_tokens": self._prompt,
            "completion_tokens": self._completion,
            "total_tokens": self._prompt + self._completion,
            "prompt_tokens_details": {"cached_tokens": self._cached},
        }


class Answer:
    """One request's answer: its envelope and everything in it."""

    def __init__(
        self,
        shape: Shape,
        *,
        model: str,
        created: float,
        choices_per_prompt: int,
        include_usage: bool = False,
    ) -> None:
        self.fingerprint: str | None = None  # the model_digest, once a worker has accepted
        self._shape = shape
        self._usage = Usage(choices_per_prompt)
        self._include_usage = include_usage
        self._envelope: Json = {
            "id": shape.id_prefix + uuid.uuid4().hex,
            "object": "",
            "created": int(created),
            "model": model,
            "system_fingerprint": None,
        }

    def opening(self, index: int) -> list[Json]:
        """Chunks when a choice was accepted."""
        choice = self._shape.opening(index)
        return [] if choice is None else [self._chunk([choice])]

    def tokens(self, index: int, tokens: worker_pb2.Tokens) -> list[Json]:
        """Chunks for new tokens: none while their text is held back."""
        logprobs = self._shape.logprobs(index, tokens.logprobs) if tokens.logprobs else None
        if not tokens.text and logprobs is None:
            return []
        return [self._chunk([self._shape.part(index, tokens.text, logprobs)])]

    def closing(self, index: int, finished: worker_pb2.Finished) -> list[Json]:
        """Chunks when a choice ended: held-back text and the reason."""
        self._usage.count(index, finished)
        chunks = []
        if finished.text:
            chunks.append(self._chunk([self._shape.part(index, finished.text, None)]))
        reason = FINISH_REASONS[finished.reason]
        return [*chunks, self._chunk([self._shape.closing(index, reason)])]

    def ending(self) -> list[Json]:
        """Chunks after all choices: the usage, if the client asked for it."""
        return [self._chunk([]) | {"usage": self._usage.json()}] if self._include_usage else []

    def whole(self, choices: Sequence[Collected]) -> Json:
        """An answer that is not streamed."""
        written: list[Json] = []
        for index, choice in enumerate(choices):
            self._usage.count(index, choice.finished)
            parts = [self._shape.logprobs(index, tokens) for tokens in choice.logprobs]
            logprobs = self._shape.join_logprobs(parts) if parts else None
            text = "".join(choice.texts) + choice.finished.text
            reason = FINISH_REASONS[choice.finished.reason]
            written.append(self._shape.whole(index, text, logprobs, reason))
        return self._envelope | {
            "object": self._shape.whole_object,
            "system_fingerprint": self.fingerprint,
            "choices": written,
            "usage": self._usage.json(),
        }

    def _chunk(self, choices: list[Json]) -> Json:
        chunk = self._envelope | {
            "object": self._shape.chunk_object,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }
        return chunk | {"usage": None} if self._include_usage else chunk


class Collected:
    """What came of one choice of an answer that is not streamed."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.logprobs: list[Sequence[worker_pb2.TokenLogprobs]] = []
        self.finished = worker_pb2.Finished()

    def take(self, tokens: worker_pb2.Tokens) -> None:
        """New tokens."""
        self.texts.append(tokens.text)
        if tokens.logprobs:
            self.logprobs.append(tokens.logprobs)


def printable(token: bytes) -> str:
    """A token as text; bytes that are no whole character become U+FFFD, as OpenAI has it."""
    return token.decode("utf-8", errors="replace")


def logprob(value: float) -> float:
    """A logprob that JSON can carry."""
    return max(LOWEST_LOGPROB, value)  # in this order NaN becomes the lowest, too

"""The answer to one request: what chat and plain completions have in common."""

from __future__ import annotations

import json
import uuid
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any, ClassVar, Final

from typing_extensions import override

from modelfleet_proto import worker_pb2

from ..errors import GatewayError

Json = dict[str, Any]
Event = worker_pb2.Accepted | worker_pb2.Tokens | worker_pb2.Finished

LOWEST_LOGPROB: Final = -9999.0  # OpenAI's for "very unlikely"; JSON has no infinity
ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
TEXT_MARK: Final = "\0"  # stands for a chunk's text where its surroundings are encoded
FINISH_REASONS: Final = {
    worker_pb2.FINISH_REASON_STOP: "stop",
    worker_pb2.FINISH_REASON_LENGTH: "length",
}


def encode(body: Json) -> str:
    """Compact JSON."""
    return ENCODER.encode(body)


@dataclass(kw_only=True, eq=False)
class BaseAnswer(ABC):
    """The answer to one request of any API: what workers send becomes its JSON.

    A stream calls `chunks` for each event and `last_chunks` at the end; an answer that is not
    streamed calls `collect` for each event and `whole` at the end. `index` is the choice's.
    """

    keeps_stream: ClassVar[bool] = False  # a stream's end repeats all that it said

    model: str  # as the client named it
    created: float  # seconds since the epoch
    choices_per_prompt: int = 1
    fingerprint: str | None = None  # the model_digest, once a worker has accepted

    def __post_init__(self) -> None:
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._cached_tokens = 0
        self.failed_calls = 0

    @abstractmethod
    def chunks(self, index: int, event: Event) -> list[str]:
        """What a stream writes for an event: JSON. None for tokens whose text is held back."""

    @abstractmethod
    def last_chunks(self) -> list[str]:
        """What a stream writes after all choices."""

    @abstractmethod
    def collect(self, index: int, event: Event) -> None:
        """Keeps what belongs into the whole answer."""

    @abstractmethod
    def whole(self) -> Json:
        """The collected answer."""

    def continue_as(self, fingerprint: str) -> None:
        """A worker with this model_digest goes on: what follows carries it."""
        self.fingerprint = fingerprint

    def failure(self, error: GatewayError) -> list[str]:
        """What a stream that has begun writes as its last: it ends without an answer."""
        return [encode(error.body())]

    @property
    def tokens(self) -> tuple[int, int]:
        """Of the prompt and the answer, of the choices that are finished."""
        return self._prompt_tokens, self._completion_tokens

    @property
    def cached_tokens(self) -> int:
        """Of the prompts, those that workers found in their prefix caches."""
        return self._cached_tokens

    def _count_usage(self, index: int, finished: worker_pb2.Finished) -> None:
        self._completion_tokens += finished.completion_tokens
        self.failed_calls += finished.failed_calls
        if index % self.choices_per_prompt == 0:  # a prompt counts once, whatever n is
            self._prompt_tokens += finished.prompt_tokens
            self._cached_tokens += min(finished.cached_tokens, finished.prompt_tokens)


@dataclass(kw_only=True, eq=False)
class Answer(BaseAnswer):
    """What chat and plain completions have in common: choices, and a chunk for each event."""

    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]  # OpenAI's `object`, of an answer that is not streamed
    chunk_object: ClassVar[str]

    include_usage: bool = False  # of a stream

    def __post_init__(self) -> None:
        super().__post_init__()
        self._envelope: Json = {
            "id": self.id_prefix + uuid.uuid4().hex,
            "object": "",
            "created": int(self.created),
            "model": self.model,
            "system_fingerprint": None,
        }
        self._around_text: dict[int, tuple[str, str]] = {}  # by choice: what chunks have in common
        # By choice, while an answer that is not streamed is collected.
        self._texts: dict[int, list[str]] = defaultdict(list)
        self._logprobs: dict[int, list[worker_pb2.TokenLogprobs]] = defaultdict(list)
        self._finish_reasons: dict[int, str] = {}

    @abstractmethod
    def opening(self, index: int) -> Json | None:
        """The first chunk of a choice, if it has one."""

    @abstractmethod
    def part(self, index: int, text: str, logprobs: Json | None) -> Json:
        """A choice in a chunk with new text."""

    @abstractmethod
    def closing(self, index: int, finish_reason: str) -> Json:
        """A choice in its last chunk."""

    @abstractmethod
    def choice(self, index: int, text: str, logprobs: Json | None, finish_reason: str) -> Json:
        """A choice of an answer that is not streamed."""

    @abstractmethod
    def logprobs(self, index: int, tokens: Sequence[worker_pb2.TokenLogprobs]) -> Json:
        """The logprobs of tokens that follow those of earlier calls."""

    def parts(
        self, index: int, parts: Iterable[worker_pb2.OutputPart], logprobs: Json | None
    ) -> list[str]:
        """Chunks with parts of an answer: only chats have them."""
        raise AssertionError("this answer has no parts")

    def collect_parts(self, index: int, parts: Iterable[worker_pb2.OutputPart]) -> None:
        """Keeps what belongs into the whole answer."""
        raise AssertionError("this answer has no parts")

    def finish_reason(self, index: int, reason: str) -> str:
        """As the API says why a choice ended."""
        return reason

    @override
    def chunks(self, index: int, event: Event) -> list[str]:
        if isinstance(event, worker_pb2.Tokens):
            if event.logprobs:
                logprobs = self.logprobs(index, event.logprobs)
                if event.parts:
                    return self.parts(index, event.parts, logprobs)
                return [self._chunk([self.part(index, event.text, logprobs)])]
            text = event.text
            if text:
                return [self._text_chunk(index, text)]
            return self.parts(index, event.parts, None) if event.parts else []
        if isinstance(event, worker_pb2.Accepted):
            choice = self.opening(index)
            return [] if choice is None else [self._chunk([choice])]
        self._count_usage(index, event)
        before = [self._text_chunk(index, event.text)] if event.text else []
        if event.parts:
            before += self.parts(index, event.parts, None)
        reason = self.finish_reason(index, FINISH_REASONS[event.reason])
        return [*before, self._chunk([self.closing(index, reason)])]

    @override
    def continue_as(self, fingerprint: str) -> None:
        if fingerprint != self.fingerprint:
            self.fingerprint = fingerprint
            self._around_text.clear()

    @override
    def last_chunks(self) -> list[str]:
        """The usage, if the client asked for it."""
        return [self._chunk([], self._usage())] if self.include_usage else []

    @override
    def collect(self, index: int, event: Event) -> None:
        if isinstance(event, worker_pb2.Tokens):
            self._texts[index].append(event.text)
            self._logprobs[index].extend(event.logprobs)
            if event.parts:
                self.collect_parts(index, event.parts)
        elif isinstance(event, worker_pb2.Finished):
            self._texts[index].append(event.text)
            if event.parts:
                self.collect_parts(index, event.parts)
            reason = self.finish_reason(index, FINISH_REASONS[event.reason])
            self._finish_reasons[index] = reason
            self._count_usage(index, event)

    @override
    def whole(self) -> Json:
        """The collected answer, its choices in order."""
        choices: list[Json] = []
        for index, finish_reason in sorted(self._finish_reasons.items()):
            tokens = self._logprobs[index]
            logprobs = self.logprobs(index, tokens) if tokens else None
            text = "".join(self._texts[index])
            choices.append(self.choice(index, text, logprobs, finish_reason))
        return self._envelope | {
            "object": self.whole_object,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
            "usage": self._usage(),
        }

    def _chunk(self, choices: list[Json], usage: Json | None = None) -> str:
        chunk = self._envelope | {
            "object": self.chunk_object,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }
        return encode(chunk | {"usage": usage} if self.include_usage else chunk)

    def _text_chunk(self, index: int, text: str) -> str:
        """A chunk with new text and no logprobs: all but the text is encoded once for a choice."""
        around = self._around_text.get(index)
        if around is None:
            chunk = self._chunk([self.part(index, TEXT_MARK, None)])
            before, _, after = chunk.rpartition(encode_basestring(TEXT_MARK))
            around = self._around_text[index] = (before, after)
        return around[0] + encode_basestring(text) + around[1]

    def _usage(self) -> Json:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "total_tokens": self._prompt_tokens + self._completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self._cached_tokens},
        }


def printable(token: bytes) -> str:
    """A token as text; bytes that are no whole character become U+FFFD, as OpenAI has it."""
    return token.decode("utf-8", errors="replace")


def json_logprob(value: float) -> float:
    """A logprob that JSON can carry: -inf -> -9999.0."""
    return max(LOWEST_LOGPROB, value)  # in this order NaN becomes the lowest, too

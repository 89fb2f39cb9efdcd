"""The seam between the engine thread and whoever feeds it: picklable values in two queues.

Nothing here holds a reference to the other side, so that the engine can become a process.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is drawn; randomness is a function of (seed, choice, position)."""

    temperature: float = 0.0  # 0 is greedy
    top_k: int = 0  # 0 is off
    top_p: float = 1.0
    min_p: float = 0.0  # 0 is off
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, what is added), each id once
    repetition_penalty: float = 1.0  # 1 is off
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0  # 64 bits, unsigned
    choice: int = 0
    logprobs: int | None = None  # alternatives reported for each token; None: no logprobs at all

    @property
    def shifts_logits(self) -> bool:
        """Whether a bias or a penalty applies; it does to greedy requests, too."""
        return self.penalizes or bool(self.logit_bias)

    @property
    def needs_history(self) -> bool:
        """Whether more of the steps before is wanted than the last token."""
        return self.penalizes or self.logprobs is not None

    @property
    def penalizes(self) -> bool:
        """Whether tokens that are known already count."""
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One choice to generate. Limits and stops count from the first token ever."""

    request_id: str  # unique in this engine while the request lives
    prompt_ids: tuple[int, ...]
    resumed_ids: tuple[int, ...] = ()  # generated elsewhere already; never reported again
    sampling: SamplingParams = SamplingParams()
    max_tokens: int  # resumed ones included; at least len(resumed_ids) + 1
    stop_token_ids: frozenset[int] = frozenset()  # with the end-of-sequence ids, if obeyed


@dataclass(frozen=True, slots=True)
class Add:
    """Take this request. It was checked against `EngineLimits` before."""

    request: Request


@dataclass(frozen=True, slots=True)
class Abort:
    """Forget this request at the next step; unknown ids are ignored, no output follows."""

    request_id: str


Command = Add | Abort


class FinishReason(enum.Enum):
    """Why a request ended in the engine. Stop strings are found outside, and abort it."""

    STOP = "stop"  # a stop token; it is the last id reported
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural logarithms, of the model's own distribution: before any sampling option."""

    chosen: float
    top: tuple[tuple[int, float], ...]  # (id, logprob), most likely first


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOutput:
    """What one step brought for one request."""

    request_id: str
    ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()  # one for each id, if asked for
    cached_tokens: int = 0  # prompt tokens that the prefix cache had, once known
    finished: FinishReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Observed after a step; counters count from the engine's start."""

    running: int
    waiting: int  # preempted ones too
    kv_blocks: int
    kv_blocks_used: int
    kv_blocks_cached: int
    steps: int
    step_seconds: float  # moving average
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    preemptions: int
    finished: int
    aborted: int


@dataclass(frozen=True, slots=True)
class StepOutput:
    """One wake-up for the other side: all that has come since the last one, in order."""

    outputs: tuple[RequestOutput, ...]
    stats: EngineStats


@dataclass(frozen=True, slots=True)
class EngineFailure:
    """The loop ended with an error; no output follows for any request."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What can ever fit, known once the model and the cache stand."""

    context_length: int  # tokens, prompt and answer together
    kv_tokens: int  # tokens that the whole cache holds
    max_sequences: int  # requests in one batch
    vocab_size: int

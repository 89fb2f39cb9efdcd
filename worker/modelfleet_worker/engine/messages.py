"""What crosses between the engine's thread and its caller: picklable values, both ways.

Nothing here holds a reference to the other side, so that the engine can become a process: but for
a request's constraint, which that process would have to make of its grammar.
"""

from __future__ import annotations

from dataclasses import dataclass

from .request import FinishReason, Request


@dataclass(frozen=True, slots=True)
class Add:
    """Take this request. It was checked against `EngineLimits` before."""

    request: Request


@dataclass(frozen=True, slots=True)
class Abort:
    """Forget this request at the next step; unknown ids are ignored, no output follows."""

    request_id: str


Command = Add | Abort


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
    cached_tokens: int = 0  # prompt tokens that the prefix cache had
    finished: FinishReason | None = None
    failure: str = ""  # why it ended without a last token: its constraint failed


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStart:
    """How a request came to its first token here; times are time.monotonic()'s."""

    request_id: str
    admitted_at: float  # into a step
    first_token_at: float  # read
    prefill_steps: int
    cached_tokens: int


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
    busy_seconds: float = 0.0  # in steps
    prompt_squares: float = 0.0  # of each prompt's computed tokens


@dataclass(frozen=True, slots=True)
class StepOutput:
    """One delivery: all outputs since the last one, in order."""

    outputs: tuple[RequestOutput, ...]
    stats: EngineStats
    starts: tuple[RequestStart, ...] = ()  # of those whose first token is among them


@dataclass(frozen=True, slots=True)
class EngineFailure:
    """The loop ended with an error; no output follows for any request."""

    error: str

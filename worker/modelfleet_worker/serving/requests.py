"""From a GenerateRequest to the engine's request: its fields, each checked, and its sizes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from modelfleet_proto import worker_pb2 as pb

from ..engine.constraint import Constraint
from ..engine.request import EngineLimits, Request, SamplingParams
from ..errors import InvalidRequestError, NeverFitsError
from ..models.generation_config import NO_DEFAULTS, SamplingDefaults
from ..text.grammar import Grammar, ReasoningMarks
from .chats import ChatPrompt, NewParser, read_chat
from .formats import read_format

MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 4096  # of one stop string
MAX_STOP_TOKEN_IDS = 1024
MAX_REQUEST_ID = 256
MAX_CACHE_SALT = 256  # bytes
MAX_TOP_LOGPROBS = 20
MAX_LOGIT_BIAS = 100.0  # either way
MAX_BIASED_TOKENS = 300
_COLDEST = 1e-4  # a temperature below it divides logits by so little that only the largest counts
_RANGES = {  # ends that float32 holds exactly, so that the gateway's are the same
    "min_p": (0, 1),
    "repetition_penalty": (1 / 16, 16),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}
_LATEST = 253402300799  # seconds since the epoch: the end of the year 9999


Prompt = str | tuple[int, ...] | ChatPrompt


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """What the caller asks for, each field checked."""

    request_id: str
    prompt: Prompt
    prompt_bytes: int  # of the text that the caller sent; 0 for token ids
    sampling: SamplingParams
    max_tokens: int  # 0: as many as there is room for
    stop_strings: tuple[str, ...]
    stop_token_ids: frozenset[int]
    ignore_eos: bool
    created: float
    resumed_ids: tuple[int, ...]
    new_parser: NewParser | None = None  # of an answer that comes in parts
    grammar: Grammar | None = None  # what the answer is held to
    reasoning: ReasoningMarks | None = None  # what may come before
    cache_salt: bytes = b""


def check_counts(request: pb.GenerateRequest, limits: EngineLimits) -> None:
    """Raises NeverFitsError for more than a context holds, before any of it becomes an object.

    A message counts as one token, whatever its content is: its role alone takes that.
    """
    counts = {
        "messages": len(request.chat.messages),
        "prompt tokens": len(request.prompt_token_ids.ids),
        "resumed tokens": len(request.resume.token_ids),
    }
    for what, count in counts.items():
        if count > limits.context_length:
            raise NeverFitsError(
                f"the request has {count} {what}, but the context holds {limits.context_length}"
                " tokens"
            )


def read_request(
    request: pb.GenerateRequest, vocab_size: int, defaults: SamplingDefaults = NO_DEFAULTS
) -> GenerationRequest:
    """Raises InvalidRequestError for the first field that is wrong."""
    if len(request.request_id) > MAX_REQUEST_ID:
        raise InvalidRequestError(f"request_id is longer than {MAX_REQUEST_ID} characters")
    if not (math.isfinite(request.created) and 0 <= request.created <= _LATEST):
        raise InvalidRequestError(
            f"created must be seconds since the epoch, found {request.created}"
        )
    stop = request.stop
    _check_stops(stop)
    prompt = _read_prompt(request, vocab_size)
    return GenerationRequest(
        request_id=request.request_id,
        prompt=prompt,
        prompt_bytes=_bytes(request),
        sampling=_read_sampling(request, vocab_size, defaults),
        max_tokens=stop.max_tokens,
        stop_strings=tuple(stop.strings),
        stop_token_ids=frozenset(_checked_ids(stop.token_ids, vocab_size, "stop.token_ids")),
        ignore_eos=stop.ignore_eos,
        created=request.created,
        resumed_ids=_checked_ids(request.resume.token_ids, vocab_size, "resume.token_ids"),
        grammar=(read_format(request.output_format) if request.HasField("output_format") else None),
        cache_salt=_read_cache_salt(request.cache_salt),
    )


def _read_cache_salt(salt: str) -> bytes:
    """As hashes begin with it: always as long, so that no salt is the beginning of another."""
    said = salt.encode()
    if len(said) > MAX_CACHE_SALT:
        raise InvalidRequestError(f"cache_salt is longer than {MAX_CACHE_SALT} bytes")
    return hashlib.sha256(b"cache_salt " + said).digest() if said else b""


def _read_prompt(request: pb.GenerateRequest, vocab_size: int) -> Prompt:
    match request.WhichOneof("input"):
        case "prompt":
            if not request.prompt:
                raise InvalidRequestError("the prompt is empty: expected some text")
            return request.prompt
        case "prompt_token_ids":
            ids = _checked_ids(request.prompt_token_ids.ids, vocab_size, "prompt_token_ids")
            if not ids:
                raise InvalidRequestError("prompt_token_ids is empty: expected at least one id")
            return ids
        case "chat":
            return read_chat(request.chat, request.created)
        case _:
            raise InvalidRequestError("expected a prompt, prompt_token_ids or a chat, found none")


def _bytes(request: pb.GenerateRequest) -> int:
    if request.WhichOneof("input") == "chat":
        chat = request.chat
        calls = sum(len(m.content.encode()) + len(m.tool_calls.encode()) for m in chat.messages)
        return calls + len(chat.tools.encode())
    return len(request.prompt.encode())


def _check_stops(stop: pb.StopConditions) -> None:
    if len(stop.strings) > MAX_STOP_STRINGS:
        raise InvalidRequestError(
            f"at most {MAX_STOP_STRINGS} stop strings, found {len(stop.strings)}"
        )
    for number, string in enumerate(stop.strings):
        if not 0 < len(string) <= MAX_STOP_CHARACTERS:
            raise InvalidRequestError(
                f"stop string {number} must have 1 to {MAX_STOP_CHARACTERS} characters, "
                f"found {len(string)}"
            )
    if len(stop.token_ids) > MAX_STOP_TOKEN_IDS:
        raise InvalidRequestError(
            f"at most {MAX_STOP_TOKEN_IDS} stop token ids, found {len(stop.token_ids)}"
        )


def _read_sampling(
    request: pb.GenerateRequest, vocab_size: int, defaults: SamplingDefaults
) -> SamplingParams:
    """How tokens are drawn, with the model's defaults for what is not said.

    Each field for itself: a request with a temperature of 0 and no word of a repetition penalty is
    greedy under the model's own.
    """
    sampling, unstated = request.sampling, request.sampling.unstated
    temperature, top_p = sampling.temperature, sampling.top_p
    for name, (least, most) in _RANGES.items():
        value = getattr(sampling, name)
        if value != 0 and not least <= value <= most:  # 0 is off; NaN is in no range
            raise InvalidRequestError(f"{name} must be from {least:g} to {most:g}, found {value}")
    if not request.HasField("sampling"):
        top_p = 1.0  # an absent message is greedy; a present one has to say its top_p
    if not (math.isfinite(temperature) and temperature >= 0):
        raise InvalidRequestError(f"temperature must be 0 or more, found {temperature}")
    if not 0 < top_p <= 1:
        raise InvalidRequestError(f"top_p must be above 0 and at most 1, found {top_p}")
    if request.logprobs.top > MAX_TOP_LOGPROBS:
        raise InvalidRequestError(
            f"at most {MAX_TOP_LOGPROBS} top logprobs a token, found {request.logprobs.top}"
        )
    if unstated.temperature and defaults.temperature is not None:
        temperature = defaults.temperature
    if unstated.top_p and defaults.top_p is not None:
        top_p = defaults.top_p
    top_k = defaults.top_k if unstated.top_k else None
    min_p = defaults.min_p if unstated.min_p else None
    penalty = defaults.repetition_penalty if unstated.repetition_penalty else None
    return SamplingParams(
        temperature=temperature if temperature >= _COLDEST else 0.0,
        top_k=sampling.top_k if top_k is None else top_k,
        top_p=top_p,
        min_p=sampling.min_p if min_p is None else min_p,
        logit_bias=_read_bias(sampling.logit_bias, vocab_size),
        repetition_penalty=(sampling.repetition_penalty or 1.0) if penalty is None else penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        seed=request.seed,
        choice=request.choice,
        logprobs=request.logprobs.top if request.logprobs.enabled else None,
    )


def _read_bias(bias: Mapping[int, float], vocab_size: int) -> tuple[tuple[int, float], ...]:
    if len(bias) > MAX_BIASED_TOKENS:
        raise InvalidRequestError(
            f"logit_bias may name at most {MAX_BIASED_TOKENS} tokens, found {len(bias)}"
        )
    for token_id, value in bias.items():
        if token_id >= vocab_size:
            raise InvalidRequestError(
                f"logit_bias names token {token_id}, but the vocabulary has {vocab_size} tokens"
            )
        if not abs(value) <= MAX_LOGIT_BIAS:  # NaN neither
            raise InvalidRequestError(
                f"logit_bias[{token_id}] must be from {-MAX_LOGIT_BIAS:g} to {MAX_LOGIT_BIAS:g}, "
                f"found {value}"
            )
    return tuple(sorted(bias.items()))


def _checked_ids(ids: Iterable[int], vocab_size: int, field: str) -> tuple[int, ...]:
    checked = tuple(ids)
    if checked and max(checked) >= vocab_size:
        number = next(i for i, token_id in enumerate(checked) if token_id >= vocab_size)
        raise InvalidRequestError(
            f"{field}[{number}] is {checked[number]}, but the vocabulary has {vocab_size} tokens"
        )
    return checked


def build_engine_request(
    asked: GenerationRequest,
    prompt_ids: tuple[int, ...],
    engine_id: str,
    eos_ids: frozenset[int],
    limits: EngineLimits,
    constraint: Constraint | None = None,
) -> Request:
    """What the engine computes. Raises NeverFitsError with the numbers."""
    room = min(limits.context_length, limits.kv_tokens) - len(prompt_ids)
    max_tokens = asked.max_tokens or max(room, 1)
    reason = limits.check_fits(len(prompt_ids), max_tokens)
    if reason is not None:
        raise NeverFitsError(reason)
    return Request(
        request_id=engine_id,
        prompt_ids=prompt_ids,
        resumed_ids=asked.resumed_ids,
        sampling=asked.sampling,
        max_tokens=max_tokens,
        stop_token_ids=asked.stop_token_ids | (frozenset() if asked.ignore_eos else eos_ids),
        constraint=constraint,
        cache_salt=asked.cache_salt,
    )

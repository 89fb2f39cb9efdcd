"""From a GenerateRequest to the engine's request: checks fields, tokenizes, checks sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from modelfleet_proto import worker_pb2 as pb

from ..engine.request import EngineLimits, Request, SamplingParams
from ..errors import InvalidRequestError, NeverFitsError
from ..models.generation_config import NO_DEFAULTS, SamplingDefaults
from ..text.tokenizer import ROLES, Message, Tokenizer
from .sampling import read_sampling

MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 1024  # of one stop string
MAX_STOP_TOKEN_IDS = 256
MAX_REQUEST_ID = 256
_SHOWN = 40  # characters of a role that there is not
_LATEST = 253402300799  # seconds since the epoch: the end of the year 9999


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """Goes through the model's chat template."""

    messages: tuple[Message, ...]
    add_generation_prompt: bool


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
        prompt_bytes=_bytes(prompt),
        sampling=read_sampling(request, vocab_size, defaults),
        max_tokens=stop.max_tokens,
        stop_strings=tuple(stop.strings),
        stop_token_ids=frozenset(_checked_ids(stop.token_ids, vocab_size, "stop.token_ids")),
        ignore_eos=stop.ignore_eos,
        created=request.created,
        resumed_ids=_checked_ids(request.resume.token_ids, vocab_size, "resume.token_ids"),
    )


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
            if not request.chat.messages:
                raise InvalidRequestError("chat.messages is empty: expected at least one message")
            messages = tuple(Message(m.role, m.content, m.name) for m in request.chat.messages)
            for number, message in enumerate(messages):
                if message.role not in ROLES:
                    raise InvalidRequestError(
                        f"chat.messages[{number}].role must be one of {', '.join(sorted(ROLES))}, "
                        f"found {message.role[:_SHOWN]!r}"
                    )
            return ChatPrompt(messages, request.chat.add_generation_prompt)
        case _:
            raise InvalidRequestError("expected a prompt, prompt_token_ids or a chat, found none")


def _bytes(prompt: Prompt) -> int:
    match prompt:
        case str(text):
            return len(text.encode())
        case ChatPrompt(messages):
            return sum(len(message.content.encode()) for message in messages)
    return 0


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


def _checked_ids(ids: Iterable[int], vocab_size: int, field: str) -> tuple[int, ...]:
    checked = tuple(ids)
    if checked and max(checked) >= vocab_size:
        number = next(i for i, token_id in enumerate(checked) if token_id >= vocab_size)
        raise InvalidRequestError(
            f"{field}[{number}] is {checked[number]}, but the vocabulary has {vocab_size} tokens"
        )
    return checked


def prompt_text(asked: GenerationRequest, tokenizer: Tokenizer, limits: EngineLimits) -> str | None:
    """The prompt's text; None if it came as ids.

    Raises NeverFitsError for a text that is far too long, and what the chat template raises.
    """
    match asked.prompt:
        case str(text):
            pass
        case ChatPrompt(messages, add_generation_prompt):
            text = tokenizer.render_chat(
                messages, created=asked.created, add_generation_prompt=add_generation_prompt
            )
        case _:
            return None
    least = tokenizer.least_tokens(text)
    if least > limits.context_length:
        raise NeverFitsError(
            f"the prompt is {len(text)} characters, at least {least} tokens, but the context "
            f"holds {limits.context_length}"
        )
    return text


def prompt_ids(
    asked: GenerationRequest, text: str | None, tokenizer: Tokenizer, limits: EngineLimits
) -> tuple[int, ...]:
    """The ids of the prompt, whose text is given. Raises InvalidRequestError."""
    if text is None:
        return asked.prompt if isinstance(asked.prompt, tuple) else ()
    # A chat template writes the special tokens itself.
    is_chat = isinstance(asked.prompt, ChatPrompt)
    ids = tuple(tokenizer.encode(text, add_special_tokens=not is_chat))
    if not ids:
        raise InvalidRequestError("the prompt has no tokens: expected some text")
    if max(ids) >= limits.vocab_size:  # some checkpoints add tokens to the tokenizer alone
        raise InvalidRequestError(
            f"the prompt has token {max(ids)} of the tokenizer, but the model knows"
            f" {limits.vocab_size} tokens"
        )
    return ids


def build_engine_request(
    asked: GenerationRequest,
    prompt_ids: tuple[int, ...],
    engine_id: str,
    eos_ids: frozenset[int],
    limits: EngineLimits,
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
    )

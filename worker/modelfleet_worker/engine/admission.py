"""Whether a request can be served at all: asked at the door, before it takes a place."""

from __future__ import annotations

from .messages import EngineLimits, Request


def check_fits(prompt_tokens: int, max_tokens: int, limits: EngineLimits) -> str | None:
    """Why a prompt and an answer of these sizes (tokens) can never be served; None: they can."""
    if prompt_tokens < 1:
        return "the prompt is empty: at least one token is needed"
    if max_tokens < 1:
        return f"max_tokens is {max_tokens}: at least 1 is needed"
    total = prompt_tokens + max_tokens
    asked = f"{prompt_tokens} prompt tokens and {max_tokens} to generate are {total}"
    if total > limits.context_length:
        return f"{asked}, but the context holds {limits.context_length}"
    if total > limits.kv_tokens:
        return f"{asked}, but the whole KV cache holds {limits.kv_tokens}"
    return None


def check_request(request: Request, limits: EngineLimits) -> str | None:
    """Why the engine must not take this request; None: it is sound."""
    ids = (*request.prompt_ids, *request.resumed_ids)
    if ids and not 0 <= min(ids) <= max(ids) < limits.vocab_size:
        bad = next(id_ for id_ in ids if not 0 <= id_ < limits.vocab_size)
        return f"token id {bad} is not in the vocabulary (0 to {limits.vocab_size - 1})"
    if len(request.resumed_ids) >= request.max_tokens:
        return (
            f"{len(request.resumed_ids)} resumed tokens leave nothing to generate"
            f" of max_tokens {request.max_tokens}"
        )
    return check_fits(len(request.prompt_ids), request.max_tokens, limits)

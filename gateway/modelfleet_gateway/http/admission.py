"""A request within its key's limits, from its admission to its end."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

from starlette.requests import Request

from ..access.caller import Caller
from ..access.priority import HEADER, priority_of
from ..access.quotas import Admission, Quotas
from ..routing.claim import SlotClaim
from ..routing.fairness import Share, estimated_tokens

PRIORITY: Final = "modelfleet.priority"  # in the scope of what this gateway asks itself


def asked_priority(request: Request) -> str | None:
    """The priority that a request says beside its body."""
    said: str | None = request.scope.get(PRIORITY)
    return said or request.headers.get(HEADER)


def share_of(
    caller: Caller, said: str | None, service_tier: object, *, size: int, choices: int
) -> Share:
    """How a request's choices wait; `size`: bytes of the prompts of all."""
    priority = priority_of(caller.priority, said, service_tier)
    return Share(
        key=caller.key_id,
        is_batch=priority == "batch",
        queue_share=caller.limits.queue_share,
        prompt_tokens=estimated_tokens(size // choices),
    )


def admit(
    caller: Caller, quotas: Quotas, model: str, *, size: int, completion: int | None
) -> Admitted | None:
    """RateLimitError if the key has reached a limit; None: it has none.

    `size`: bytes of the prompts; `completion`: tokens that may be generated, None: not said.
    """
    limits = caller.limits
    if (
        limits.requests_per_minute is None
        and limits.tokens_per_minute is None
        and limits.max_concurrent is None
    ):
        return None
    prompt, now = estimated_tokens(size), asyncio.get_running_loop().time()
    admission = quotas.admit(
        caller.key_id, limits, model, now, prompt=prompt, completion=completion
    )
    return Admitted(admission, prompt)


class Admitted:
    """Leaving its block says what the request used; nothing, if no worker had it."""

    def __init__(self, admission: Admission, prompt: int) -> None:
        self._admission = admission
        self._loop = asyncio.get_running_loop()
        self._prompt = prompt  # tokens, an estimate until they are counted
        self._was_counted = False
        self.claim: SlotClaim | None = None  # of a request that generates

    def count_prompt(self, tokens: int) -> None:
        """A worker has the request, whose prompt, or another one of them, has so many tokens."""
        self._prompt = tokens + (self._prompt if self._was_counted else 0)
        self._was_counted = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        completion = self.claim.tokens_received if self.claim is not None else 0
        tokens = self._prompt + completion if self._was_counted else None
        self._admission.end(self._loop.time(), tokens=tokens, completion=completion)

    def headers(self) -> dict[str, str]:
        """OpenAI's, of what is left."""
        return self._admission.headers(self._loop.time())

"""How lines reach the endpoints of this gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The response to a request."""

    status: int
    body: bytes  # JSON
    retry_after: float = 0.0  # seconds; 0: it does not say


class Submit(Protocol):
    """Runs a request as HTTP's are run, at a batch's priority; cancelling it ends it."""

    def __call__(
        self,
        url: str,
        body: bytes,
        *,
        request_id: str,
        key_id: str,
        on_queued: Callable[[], None],
    ) -> Awaitable[Answered]:
        """Errors are responses, too. `on_queued`: it has a slot, or waits for one."""
        ...

"""Whether a request is interactive or batch. Pure."""

from __future__ import annotations

from typing import Final, Literal

from ..errors import InvalidRequestError, quoted

Priority = Literal["interactive", "batch"]

HEADER: Final = "x-modelfleet-priority"
BATCH_TIERS: Final = frozenset({"flex", "batch"})  # OpenAI's: cheaper and slower


def priority_of(of_key: str, header: str | None, service_tier: object) -> Priority:
    """The key's priority, which a request may lower and never raise.

    `service_tier`: of the body; auto, default, priority and whatever else there is change nothing.

    interactive, no header, "flex" -> batch; batch, "interactive", None -> batch.
    """
    if header is not None and header not in ("interactive", "batch"):
        raise InvalidRequestError(
            f"Invalid {HEADER!r}: expected interactive or batch, found {quoted(header)}.",
            param=HEADER,
        )
    is_batch = (
        of_key == "batch"
        or header == "batch"
        or (isinstance(service_tier, str) and service_tier in BATCH_TIERS)
    )
    return "batch" if is_batch else "interactive"

"""What becomes of a request after a call to a worker failed. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Final

import grpc

from ..errors import (
    ContextLengthExceededError,
    GatewayError,
    InvalidRequestError,
    UpstreamLostError,
)

# Failures in a row without one new token. A request that kills every worker it meets ends here.
MAX_FRUITLESS: Final = 5
# Refusals in a row before the engine had the request. Many are honest when a whole fleet drains.
MAX_TURNED_AWAY: Final = 32


@dataclass(frozen=True, slots=True)
class Failure:
    """How one call ended early."""

    code: grpc.StatusCode
    details: str
    accepted: bool = False  # the worker had the request in its engine
    draining: bool = False  # the worker was handing over, as it should


@dataclass(frozen=True, slots=True)
class Attempts:
    """Failures since the last new token."""

    fruitless: int = 0
    turned_away: int = 0


NO_FAILURES: Final = Attempts()


class Blame(enum.Enum):
    """What the failure says about the worker."""

    FULL = "full"  # no slot just now
    SUSPECT = "suspect"  # send nothing until it is heard from again
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Again:
    """Send it to a worker again, with all ids received so far."""

    attempts: Attempts
    blame: Blame


@dataclass(frozen=True, slots=True)
class End:
    """Tell the client."""

    error: GatewayError


def after_failure(failure: Failure, attempts: Attempts) -> Again | End:
    """Whether a request goes on elsewhere after this failure, or ends."""
    code = failure.code
    if not failure.accepted:
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            return End(InvalidRequestError(failure.details))
        if code is grpc.StatusCode.OUT_OF_RANGE:
            return End(ContextLengthExceededError(failure.details))
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Again(attempts, Blame.FULL)

    if failure.accepted and failure.draining:
        return Again(attempts, Blame.SUSPECT)
    if not failure.accepted and code in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
    ):
        counted = replace(attempts, turned_away=attempts.turned_away + 1)
    else:
        counted = replace(attempts, fruitless=attempts.fruitless + 1)

    if counted.fruitless >= MAX_FRUITLESS or counted.turned_away >= MAX_TURNED_AWAY:
        tries = counted.fruitless + counted.turned_away
        return End(
            UpstreamLostError(
                f"Workers failed {tries} times in a row at this request without a new token; "
                f"the last one said {code.name}: {failure.details}"
            )
        )
    # A bug that one request meets says nothing about the others on that worker.
    answered = code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
    return Again(counted, Blame.NONE if answered else Blame.SUSPECT)

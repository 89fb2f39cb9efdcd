"""Whether a request is retried after a call to a worker failed. Pure."""

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

# Failures in a row without a new token: ends a request that kills every worker it is sent to.
MAX_FAILURES: Final = 5
# Refusals in a row before a worker accepted. Many are normal while a whole fleet drains.
MAX_REFUSALS: Final = 32


@dataclass(frozen=True, slots=True)
class Failure:
    """How a call ended without Finished."""

    code: grpc.StatusCode
    details: str
    accepted: bool = False  # the worker had the request in its engine
    draining: bool = False  # the worker was handing its requests over, which is no fault


@dataclass(frozen=True, slots=True)
class Attempts:
    """Failures since the last new token."""

    failures: int = 0
    refusals: int = 0


NO_FAILURES: Final = Attempts()


class Blame(enum.Enum):
    """What the failure says about the worker."""

    FULL = "full"  # no slot just now
    SUSPECT = "suspect"  # send nothing until its next Stats
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Retry:
    """Send it to a worker again, with all ids received so far."""

    attempts: Attempts
    blame: Blame


@dataclass(frozen=True, slots=True)
class End:
    """End the request with this error."""

    error: GatewayError


def after_failure(failure: Failure, attempts: Attempts) -> Retry | End:
    """Whether a request continues on another worker after this failure, or ends."""
    code = failure.code
    if not failure.accepted:
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            return End(InvalidRequestError(failure.details))
        if code is grpc.StatusCode.OUT_OF_RANGE:
            return End(ContextLengthExceededError(failure.details))
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Retry(attempts, Blame.FULL)

    if failure.accepted and failure.draining:
        return Retry(attempts, Blame.SUSPECT)
    if not failure.accepted and code in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
    ):
        counted = replace(attempts, refusals=attempts.refusals + 1)
    else:
        counted = replace(attempts, failures=attempts.failures + 1)

    if counted.failures >= MAX_FAILURES or counted.refusals >= MAX_REFUSALS:
        tries = counted.failures + counted.refusals
        return End(
            UpstreamLostError(
                f"Workers failed {tries} times in a row at this request without a new token; "
                f"the last one said {code.name}: {failure.details}"
            )
        )
    # An error inside the worker may be a bug that only this request meets: others may go there.
    internal = code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
    return Retry(counted, Blame.NONE if internal else Blame.SUSPECT)

"""Whether a request is retried after a call to a worker failed. Pure."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

import grpc

from modelfleet_proto.refusals import FORMAT_FAILED, FULL, HANDED_OVER

from ..errors import (
    ContextLengthExceededError,
    GatewayError,
    InvalidRequestError,
    UpstreamLostError,
)

# Failures in a row without a new token: ends a request that fails wherever it is sent.
MAX_FAILURES: Final = 5
# Refusals before a worker accepted, and lost workers, in a row. Many are normal while a whole fleet
# drains, or a node with many workers fails.
MAX_REFUSALS: Final = 32
# Workers that were lost, since the last new token, while they may have been busy with a request.
MAX_LOSSES: Final = 2
LONGEST_DETAILS: Final = 1_000  # characters of a worker's message that a client gets
# What a full worker says that does not mark its refusals yet (modelfleet_proto.refusals).
_UNMARKED_FULL: Final = re.compile(r"all \d+ slots are taken")


@dataclass(frozen=True, slots=True)
class Failure:
    """How a call ended without Finished."""

    code: grpc.StatusCode
    details: str
    mark: str = ""  # of the worker's refusal; empty: the status is gRPC's, or of an old version
    accepted: bool = False  # the worker had the request in its engine
    draining: bool = False  # the worker was handing its requests over, which is no fault
    moved: bool = False  # we ended the call ourselves, so that it goes on elsewhere or later
    yielded: bool = False  # the same, since an interactive request waits
    lost: bool = False  # the worker went silent, exited or failed, with all its calls
    losses: int = 0  # workers that this request may have broken so far; 0: this loss is not its


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
    if failure.moved:
        return Retry(attempts, Blame.NONE)
    if not failure.accepted:
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            return End(InvalidRequestError(_details(failure)))
        if code is grpc.StatusCode.OUT_OF_RANGE:
            return End(ContextLengthExceededError(_details(failure)))
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return _after_exhaustion(failure, attempts)

    if failure.mark == FORMAT_FAILED:  # the same anywhere
        return End(InvalidRequestError(_details(failure)))
    if failure.accepted and (failure.draining or failure.mark == HANDED_OVER):
        return Retry(attempts, Blame.SUSPECT)
    last = f"the last one said {code.name}: {_details(failure)}"
    if failure.losses >= MAX_LOSSES:
        return End(
            UpstreamLostError(
                f"{failure.losses} workers were lost at this request without a new token, so it is "
                f"sent to no other; {last}"
            )
        )
    elsewhere = (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
    )
    if failure.lost or (not failure.accepted and code in elsewhere):
        counted = replace(attempts, refusals=attempts.refusals + 1)
    else:
        counted = replace(attempts, failures=attempts.failures + 1)

    if counted.failures >= MAX_FAILURES or counted.refusals >= MAX_REFUSALS:
        tries = counted.failures + counted.refusals
        return End(
            UpstreamLostError(
                f"Workers failed {tries} times in a row at this request without a new token; {last}"
            )
        )
    # An error inside the worker may be a bug that only this request meets: others may go there.
    internal = code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
    return Retry(counted, Blame.NONE if internal else Blame.SUSPECT)


def _after_exhaustion(failure: Failure, attempts: Attempts) -> Retry | End:
    """Only the worker's own word means that it is full: gRPC uses this status for what it drops."""
    if failure.mark == FULL or _UNMARKED_FULL.fullmatch(failure.details):
        return Retry(attempts, Blame.FULL)
    return End(
        InvalidRequestError(
            "The worker refused this request, and its reason or the request itself is too large to "
            f"pass on ({_details(failure)})."
        )
    )


def _details(failure: Failure) -> str:
    details = failure.details
    return details if len(details) <= LONGEST_DETAILS else f"{details[:LONGEST_DETAILS]} ..."


@dataclass(frozen=True, slots=True, kw_only=True)
class LostCall:
    """A call to a worker as it was when the worker was lost."""

    served: bool = False  # it had a token of this worker
    late: bool = False  # it was sent when the worker had been silent for a while, or not at all
    losses: int = 0  # workers that were lost with this request before, since its last token


def may_be_cause(call: LostCall, others: Iterable[LostCall]) -> bool:
    """Whether a request may be why its worker was lost, which counts against it.

    A worker is lost with all its calls, and mostly for a reason of its own. A request that breaks
    workers does it before its first token there: while it is read, or in its prefill. So each call
    that has no token yet is charged, unless it was sent too late to be the cause; but if one of
    them was lost with another worker before, that one alone is.

    A charged request is tried alone: on a worker where no other charged one waits for its first
    token (`queue.choose_worker`), and no two of its choices at once. Its first token clears it.
    So the second loss finds the one to blame:

    Worker 1 has a (50 tokens so far), b and c (none) and goes silent -> b and c are charged. b goes
    to worker 2, where d has no token yet, c to worker 3. Worker 2 goes silent, c gets a token -> b
    is charged again and ends; d is not charged, since b was, and c is not any more.

    All workers of a node stop at once; e is cut on one and sent to the next, which has said nothing
    for 4 s -> e is not charged for that one.
    """
    if call.served or call.late:
        return False
    return call.losses > 0 or not any(o.losses and not o.served and not o.late for o in others)

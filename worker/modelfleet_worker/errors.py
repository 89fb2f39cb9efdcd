"""Every error that the worker raises on purpose. Messages: what was expected, found, to do."""

from __future__ import annotations

from typing import ClassVar

import grpc

_LONGEST = 900  # characters of a message


class WorkerError(Exception):
    """The root of the worker's errors."""


class UsageError(WorkerError):
    """The command line asks for something impossible."""


class ModelError(WorkerError):
    """The model cannot be loaded: its source, its files, or the room it needs.

    The message is one line and not long, whatever the names in files are: it goes to Stats, to
    the deployment's status and to logs.
    """

    def __init__(self, message: str) -> None:
        line = " ".join(message.split())
        half = _LONGEST // 2
        super().__init__(line if len(line) <= _LONGEST else f"{line[:half]} ... {line[-half:]}")


class NotOurModulesError(ModelError):
    """Our own modules lack a setting of the model; transformers' may have it."""


class UnreachableError(ModelError):
    """The server that has the model does not answer; a copy fetched earlier may be used."""


class BrokenTransferError(WorkerError):
    """A connection broke in the middle of a file: go on from there."""


class RefusalError(WorkerError):
    """A call is refused; `status` is what its caller sees."""

    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN


class InvalidRequestError(RefusalError):
    """The request is wrong: no worker can serve it."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class NeverFitsError(RefusalError):
    """Prompt and answer can never fit into the context or the cache."""

    status = grpc.StatusCode.OUT_OF_RANGE


class ModelNotServedError(RefusalError):
    """This worker holds another model, or none."""

    status = grpc.StatusCode.NOT_FOUND


class AllSlotsTakenError(RefusalError):
    """All slots are taken: try again, here or elsewhere."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class PreconditionError(RefusalError):
    """The call does not fit what this worker holds; repeating it does not help."""

    status = grpc.StatusCode.FAILED_PRECONDITION


class UnavailableError(RefusalError):
    """Loading, draining or failed: send it to another worker."""

    status = grpc.StatusCode.UNAVAILABLE


class LoadCancelledError(WorkerError):
    """The load was given up on purpose: an unload, a drain or the process's end."""

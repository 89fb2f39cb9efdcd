"""Every error that the worker raises on purpose. Messages: what was expected, found, to do."""

from __future__ import annotations

from typing import ClassVar

import grpc

from modelfleet_proto import refusals

_LONGEST = 900  # characters of a message
_LONGEST_ENCODED = 300  # of one whose characters take up to 12 bytes in gRPC's metadata


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
        super().__init__(_cut(" ".join(message.split()), _LONGEST))


class TooLargeError(ModelError):
    """There is not enough memory; `needed` and `available` are in bytes, of the weights on."""

    def __init__(self, message: str, *, needed: int, available: int) -> None:
        super().__init__(message)
        self.needed = needed
        self.available = available


class NotOurModulesError(ModelError):
    """Our own modules lack a setting of the model; transformers' may have it."""


class UnreachableError(ModelError):
    """The server that has the model does not answer; a copy fetched earlier may be used."""


class BrokenTransferError(WorkerError):
    """A connection broke in the middle of a file: go on from there."""


class CallerLeftError(WorkerError):
    """Who asked is gone: nothing more can be sent."""


class RefusalError(WorkerError):
    """A call is refused; `status`, `mark` and `details` are what its caller sees."""

    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    mark: ClassVar[str] = refusals.REFUSED  # see modelfleet_proto.refusals

    @property
    def details(self) -> str:
        """The message, cut to less than 4 KiB of metadata: gRPC drops a status above 8 KiB."""
        message = str(self).encode(errors="replace").decode()  # gRPC takes no lone surrogates
        return _cut(message, _LONGEST if message.isascii() else _LONGEST_ENCODED)


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
    mark = refusals.FULL


class TooManyRequestsError(RefusalError):
    """A caller has started far more than there are slots, and reads nothing."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class PreconditionError(RefusalError):
    """The call does not fit what this worker holds; repeating it does not help."""

    status = grpc.StatusCode.FAILED_PRECONDITION


class UnavailableError(RefusalError):
    """Loading, draining or failed: send it to another worker."""

    status = grpc.StatusCode.UNAVAILABLE


class HandedOverError(UnavailableError):
    """A drain gave a running request back: resume it on another worker."""

    mark = refusals.HANDED_OVER


class FormatFailedError(RefusalError):
    """A request was taken, and then could not be held to its format: it fails anywhere."""

    status = grpc.StatusCode.ABORTED
    mark = refusals.FORMAT_FAILED


class LoadCancelledError(WorkerError):
    """The load was given up on purpose: an unload, a drain or the process's end."""


def _cut(text: str, longest: int) -> str:
    """Its beginning and its end, if it is longer."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]} ... {text[-half:]}"

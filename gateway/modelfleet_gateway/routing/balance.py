"""Which worker takes the next request."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """What the choice looks at."""

    @property
    def worker_id(self) -> str:
        """The operator's name for it."""
        ...

    @property
    def model_digest(self) -> str:
        """Of the model it holds."""
        ...

    @property
    def free_slots(self) -> int:
        """Requests it would take now; 0 when it is not ready."""
        ...

    @property
    def outstanding(self) -> int:
        """Requests it has, as far as is known."""
        ...


AnyCandidate = TypeVar("AnyCandidate", bound=Candidate)


def choose_worker(
    candidates: Iterable[AnyCandidate], *, digest: str = "", avoid: str = ""
) -> AnyCandidate | None:
    """The least loaded worker of those with a free slot; ties go to the first.

    `digest`: only a worker of this model_digest may continue a stream. `avoid`: the worker that
    failed last; taken only when there is no other.
    """
    able = [
        worker
        for worker in candidates
        if worker.free_slots > 0 and (not digest or worker.model_digest == digest)
    ]
    return min(able, key=lambda w: (w.worker_id == avoid, w.outstanding), default=None)

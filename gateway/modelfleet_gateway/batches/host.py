"""What jobs share, and what they ask the runner that carries them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..options import BatchLimits
from .commits import Commits
from .storage import Storage
from .submission import Submit
from .window import PaceDecision

if TYPE_CHECKING:
    from .job import Job


class Host(Protocol):
    """What a job asks its runner."""

    @property
    def has_leases(self) -> bool:
        """Whether no other gateway can have taken its batches by now."""
        ...

    @property
    def is_draining(self) -> bool:
        """No line is begun any more."""
        ...

    async def check_model(self, name: str) -> None:
        """UnknownModelError, NotReadyError."""
        ...

    def allowed(self, job: Job) -> tuple[PaceDecision, int]:
        """How it runs now, and how many lines it may have in work."""
        ...

    def count_running(self, job: Job) -> None:
        """It has begun lines, or some have ended."""
        ...

    def count_line(self, model: str, *, succeeded: bool) -> None:
        """A line has its result."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all jobs of a gateway use."""

    storage: Storage
    commits: Commits
    submit: Submit
    limits: BatchLimits
    runner: Host

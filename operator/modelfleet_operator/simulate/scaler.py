"""How another policy than ours takes part: it says the count, as an HPA writes it to `/scale`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What its metrics say."""

    now: float  # seconds
    waiting: int  # requests in the gateway's queue
    running: int  # requests on workers
    replicas: int  # that it asked for last
    ready: int
    starting: int
    busy_seconds: float  # of the ready workers' engines, since they began

    @property
    def in_flight(self) -> int:
        """Waiting and running."""
        return self.waiting + self.running


class Scaler(Protocol):
    """A policy with its own memory; a fresh one for each simulation."""

    @property
    def interval(self) -> float:
        """Seconds between two decisions."""
        ...

    @property
    def first(self) -> int:
        """The count that it begins with."""
        ...

    def decide(self, seen: Seen) -> tuple[int, str]:
        """How many replicas, and which part of it says so."""
        ...

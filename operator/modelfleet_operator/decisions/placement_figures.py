"""A choice between accelerator classes as the status has it."""

from __future__ import annotations

from dataclasses import dataclass

from .model_memory import ModelNeeds
from .throughput import Basis


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceFigures:
    """A place as the status has it."""

    accelerator: str
    capacity: str  # Spot or OnDemand; empty: not asked for
    cost: float  # of a million generated tokens
    tokens: float  # a second, of one worker
    basis: Basis
    why: str = ""  # of a runner-up: what the chosen one has before it
    words: str = ""  # for the Event; a status that was read back has none


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementStatus:
    """Where new workers go, and what was decided by."""

    chosen: PlaceFigures
    currency: str  # empty: not said
    needs: ModelNeeds
    runner_up: PlaceFigures | None = None
    excluded: tuple[tuple[str, str], ...] = ()  # class, and why

    def sentence(self) -> str:
        """`new workers go to l4: 0.784 ...; next h100: 1.11 ...: a token costs 42% more`."""
        words = f"new workers go to {self.chosen.words}"
        if self.runner_up is not None:
            words += f"; next {self.runner_up.words}: {self.runner_up.why}"
        return "; ".join((words, *(f"not {name}: {why}" for name, why in self.excluded)))

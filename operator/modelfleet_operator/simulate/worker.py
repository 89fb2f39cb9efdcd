"""One worker of the simulated fleet: what decisions see of it, its engine, and its bill."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, Literal

from ..decisions.observed import Worker
from .engine import Engine

START: Final = 1_000_000_000.0  # Unix seconds of the trace's first request

Use = Literal["serving", "idle", "cold", "draining"]


@dataclass(slots=True)
class Bill:
    """Seconds that workers held their nodes, by what they did."""

    serving: float = 0.0
    idle: float = 0.0
    cold: float = 0.0
    draining: float = 0.0

    @property
    def total(self) -> float:
        """All of it: what is paid for."""
        return self.serving + self.idle + self.cold + self.draining


@dataclass(slots=True, eq=False)
class SimulatedWorker:
    """Made by Create; phases of its start come one after another."""

    seen: Worker  # as the body sees it
    engine: Engine
    slots: int
    phases: list[tuple[str, float]] = field(default_factory=list)
    """Those that are still to come: name and when it begins; then it is ready."""
    ready_at: float = math.inf
    phase: str = ""  # of loading, as its Stats say; empty: no Stats yet
    said: tuple[tuple[str, float], ...] = ()  # its phases so far, as its Stats say them
    is_ready: bool = False
    is_gone: bool = False
    outstanding: int = 0  # requests that it has
    due: float = math.inf  # the engine's event that is scheduled
    _use: Literal["", "ready", "cold", "draining"] = ""  # empty: it costs nothing yet
    _since: float = 0.0
    _busy: float = 0.0  # of the engine, when `_use` began
    bill: Bill = field(default_factory=Bill)

    def uses(self, now: float, use: Literal["", "ready", "cold", "draining"]) -> None:
        """From now on its node is held for this; what went before is added to its bill.

        Before the first request (time 0) nothing is billed.
        """
        begin, busy = max(self._since, 0.0), self.engine.busy_until(now)
        seconds = max(now - begin, 0.0)
        if self._use == "ready":
            serving = min(busy - self._busy, seconds)
            self.bill.serving += serving
            self.bill.idle += seconds - serving
        elif self._use == "cold":
            self.bill.cold += seconds
        elif self._use == "draining":
            self.bill.draining += seconds
        self._use, self._since, self._busy = use, now, busy

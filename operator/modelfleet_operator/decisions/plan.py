"""The plan: what to do so that the observed fleet becomes the desired one."""

from __future__ import annotations

from dataclasses import dataclass

from .memory import Memory
from .observed import Observed, Signals, Worker
from .status import Status


@dataclass(frozen=True, slots=True)
class Create:
    """Start a worker. That it exists already is success: the name says everything."""

    name: str
    revision: str  # always the deployment's current one
    ordinal: int
    reason: str


@dataclass(frozen=True, slots=True)
class Unroute:
    """Keep `Worker.unrouted_at` where a restarted operator finds it; the worker lives on."""

    worker: Worker
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End it gracefully: it drains by itself. Only the one with this uid; gone is success."""

    worker: Worker
    reason: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Clear away what is left of a dead worker. Only the one with this uid; gone is success."""

    worker: Worker
    reason: str


Action = Create | Unroute | Stop | Remove


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRoute:
    """A worker in the gateways' view."""

    id: str
    address: str
    routable: bool
    revision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One model in the gateways' view."""

    model: str
    served_names: tuple[str, ...]
    max_queue: int
    hold_timeout: float
    created: float
    workers: tuple[WorkerRoute, ...]
    eta: float
    phase: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A decision about one deployment. Memory goes back in with the next look."""

    actions: tuple[Action, ...]
    status: Status
    memory: Memory
    route: Route
    wake_at: float | None  # when to look again though nothing happened, Unix seconds


def make_plan(
    seen: Observed, signals: Signals, now: float, memory: Memory, previous: Status | None
) -> Plan:
    """What to do now, and why; `previous` is the status that was last made.

    Raises nothing: whatever is wrong with the deployment becomes a condition.
    """
    raise NotImplementedError

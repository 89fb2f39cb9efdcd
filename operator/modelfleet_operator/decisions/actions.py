"""What a body can be asked to do: values that say why, each idempotent."""

from __future__ import annotations

from dataclasses import dataclass

from .observed import Worker
from .standby import Standby


@dataclass(frozen=True, slots=True)
class Record:
    """Keep a revision, so that workers of it can be started when the spec asks for another one.

    A revision that the history has already gets the new number: the spec went back to it.
    """

    revision: str  # the deployment's current one
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop a revision from the history; gone is success."""

    revision: str
    reason: str


@dataclass(frozen=True, slots=True)
class Create:
    """Start a worker. That it exists already is success: the name says everything."""

    name: str
    revision: str  # usually the deployment's current one; an old one of the body's history
    ordinal: int
    reason: str
    accelerator: str = ""  # an AcceleratorClass; empty: wherever the scheduler puts it
    capacity: str = ""  # Spot or OnDemand; empty: not asked for
    avoid_zones: tuple[str, ...] = ()  # rather elsewhere: spot was taken back there lately
    avoid_nodes: tuple[str, ...] = ()  # rather elsewhere: they are about to go
    missed: str = ""  # the WarmPool (`namespace/name`) that had no standby for it; empty: none fits


@dataclass(frozen=True, slots=True)
class Claim:
    """Make one of these standbys the worker that would be created, and load the model into it.

    The first that nobody else claims meanwhile; if there is none any more, `create` is done.
    """

    candidates: tuple[Standby, ...]
    create: Create
    reason: str


@dataclass(frozen=True, slots=True)
class Load:
    """Tell a claimed worker which model to load; one that loads it already goes on."""

    worker: Worker
    reason: str


@dataclass(frozen=True, slots=True)
class Credit:
    """Count in a pool's status what a claim saved; `worker` is the one that was claimed."""

    worker: Worker
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Unroute:
    """Keep `Worker.draining_since` where a restarted operator finds it: the worker drains."""

    worker: Worker
    reason: str


@dataclass(frozen=True, slots=True)
class Reroute:
    """Forget `Worker.draining_since`: a worker that was draining is needed after all."""

    worker: Worker
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End it gracefully: it drains by itself. Only the one with this uid; gone is success."""

    worker: Worker
    reason: str
    is_idle: bool = False  # nothing runs on it, so it may be killed if it does not end by itself


@dataclass(frozen=True, slots=True)
class Remove:
    """Clear away what is left of an exited worker. Only the one with this uid; gone is success."""

    worker: Worker
    reason: str


@dataclass(frozen=True, slots=True)
class Protect:
    """Tell the controllers of nodes whether they may disrupt this worker."""

    worker: Worker
    is_protected: bool
    reason: str


@dataclass(frozen=True, slots=True)
class AllowDisruptions:
    """Have the Eviction API leave at least so many ready workers."""

    min_available: int
    reason: str


Action = (
    Record
    | Forget
    | Create
    | Claim
    | Load
    | Credit
    | Unroute
    | Reroute
    | Stop
    | Remove
    | Protect
    | AllowDisruptions
)

"""The status of a deployment as values; see `rendering` for its shape in YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from .cold_start import WakePhase
from .placement_figures import PlacementStatus

Truth = Literal["True", "False", "Unknown"]
ConditionType = Literal[
    "Ready", "Reconciling", "Stalled", "NameConflict", "PlacementLimited", "BudgetLimited"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """As kstatus reads it. All but Ready are False when all is well."""

    type: ConditionType
    status: Truth
    reason: str  # CamelCase, for programs
    message: str  # for a person
    changed: float  # when `status` last changed, Unix seconds
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingEvent:
    """One step of the autoscaler."""

    time: float
    before: int
    after: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStartProgress:
    """How far the next worker is."""

    phase: str  # Asleep, Pending, Starting, Download, Imports, Weights, Cache, Warmup, BackOff
    percent: int = 0
    eta: float = 0.0  # Unix seconds; 0: not known
    since: float = 0.0  # when the wake began; 0: another worker is ready
    deadline: float = 0.0  # by when it must be over; 0: none
    phases: tuple[WakePhase, ...] = ()  # of the worker that is furthest; none: no worker exists


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedColdStart:
    """What wakes take on one accelerator class: medians of the last ones, in seconds."""

    accelerator: str  # empty: none was asked for
    wakes: int  # that are counted
    seconds: Mapping[str, float]  # of each phase, and `total`


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Requests now; their sum is the queue depth."""

    waiting: int = 0  # in all gateways
    running: int = 0  # on workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruption:
    """A worker that was told to go."""

    worker: str  # its name
    node: str  # empty: not known
    kind: str  # see interruption.NoticeKind
    source: str  # what said it
    deadline: float = 0.0  # by when it may be gone, Unix seconds; 0: nothing says so


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Every number was observed."""

    observed_generation: int
    conditions: tuple[Condition, ...]
    replicas: int = 0  # workers that exist, starting ones too, stopping ones not
    desired_replicas: int = 0  # workers wanted
    ready_replicas: int = 0  # every connected gateway can route to them
    selector: str = ""  # finds the workers by label
    revision: str = ""  # the one that the spec asks for
    queue: Queue | None = None  # None: no gateway says
    scaling_history: tuple[ScalingEvent, ...] = ()  # last 10, oldest first
    cold_start: ColdStartProgress | None = None  # None: a worker is ready
    cold_starts: tuple[LearnedColdStart, ...] = ()
    weights_on: tuple[str, ...] = ()  # nodes that keep the model's files; the latest last
    cost_per_hour: Decimal | None = None  # None: not known
    currency: str = ""  # of the cost; empty: not said
    interruptions: tuple[Interruption, ...] = ()  # that go on, by the worker's name
    placement: PlacementStatus | None = None  # None: no choice between classes
    spot_replicas: int | None = None  # of `replicas` those on spot; None: nothing is known of it

    def condition(self, type_: ConditionType) -> Condition:
        """The condition of that type; each is always there."""
        return next(c for c in self.conditions if c.type == type_)

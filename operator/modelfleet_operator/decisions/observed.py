"""What a body and the gateways saw: plain values, times in Unix seconds (they may step back)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from .autoscale import ScalingPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One ModelDeployment, reduced to what decisions need."""

    namespace: str
    name: str
    uid: str = ""
    generation: int = 0
    created: float
    revision: str  # hash of all that a worker of it is started with (see names.revision_hash)
    scaling: ScalingPolicy
    served_names: tuple[str, ...] = ()  # asked for; see names.owners for who has them
    max_queue: int = 1000
    hold_timeout: float = 600.0
    # What its user must correct, found by the body ("spec.model.tokenSecretRef: ..."): while it is
    # set no worker is started, and Stalled shows it.
    error: str = ""

    @property
    def key(self) -> str:
        """`namespace/name`: what the model is called in every part."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A pod or process that exists, as the body sees it; a dead one exists until it is removed."""

    namespace: str
    name: str  # names.worker_name(deployment, revision, ordinal)
    uid: str  # another start is another uid: the pod's, or one that the body makes up
    revision: str
    ordinal: int
    created: float
    address: str = ""  # host:port of its gRPC server; empty: not known yet
    unrouted_at: float | None = None  # when `Unroute` was carried out
    stopping: bool = False  # `Stop` was carried out, or somebody else is ending it
    failure: str | None = None  # it ended though nobody asked for it: the last line that says why
    trouble: str = ""  # why it does not start (Unschedulable: ..., ImagePullBackOff: ...)

    @property
    def id(self) -> str:
        """What gateways call it: `namespace/name`, unique in an installation."""
        return f"{self.namespace}/{self.name}"


class WorkerState(enum.Enum):
    """As its Stats say."""

    STANDBY = "Standby"
    LOADING = "Loading"
    READY = "Ready"
    DRAINING = "Draining"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStats:
    """The latest Stats of a worker that any gateway forwarded."""

    state: WorkerState
    message: str = ""  # why FAILED
    running: int = 0  # requests it has taken, those outside the batch too
    phase: str = ""  # of loading
    percent: float = 0.0
    eta: float = 0.0  # 0: not known


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayReport:
    """The latest signals of one connected gateway about one model."""

    gateway: str
    heard: bool = True  # False: connected, but its view does not have this model yet
    waiting: int = 0
    running: int = 0
    last_request: float = 0.0  # 0: none since the gateway started
    oldest_wait: float = 0.0
    reachable: frozenset[str] = frozenset()  # ids of workers that it would route to now


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What all gateways say about one model. Workers are seen through gateways only."""

    gateways: tuple[GatewayReport, ...] = ()  # silent ones are not among them
    stats: Mapping[str, WorkerStats] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def complete(self) -> bool:
        """Whether every gateway spoke. Silence is not zero load."""
        return bool(self.gateways) and all(gateway.heard for gateway in self.gateways)

    @property
    def waiting(self) -> int:
        """Requests in the queues of all gateways."""
        return sum(gateway.waiting for gateway in self.gateways)

    @property
    def running(self) -> int:
        """Requests that workers have: as they say, or as gateways do while Stats are older."""
        taken = sum(stats.running for stats in self.stats.values())
        return max(taken, sum(gateway.running for gateway in self.gateways))

    @property
    def last_request(self) -> float:
        """Arrival of the latest request at any gateway; 0: none known."""
        return max((gateway.last_request for gateway in self.gateways), default=0.0)

    def reach(self, worker_id: str) -> Literal["all", "some", "none"]:
        """How many of the gateways would route to it now."""
        reaching = sum(worker_id in gateway.reachable for gateway in self.gateways)
        if reaching == 0:
            return "none"
        return "all" if reaching == len(self.gateways) else "some"

    def is_ready(self, worker_id: str) -> bool:
        """It says so itself, and every connected gateway can reach it."""
        stats = self.stats.get(worker_id)
        return (
            stats is not None
            and stats.state is WorkerState.READY
            and self.reach(worker_id) == "all"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What a body sees of one deployment, from its caches."""

    deployment: Deployment
    workers: tuple[Worker, ...] = ()
    owners: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Who has which short name, of all deployments (see names.owners): short name -> key."""

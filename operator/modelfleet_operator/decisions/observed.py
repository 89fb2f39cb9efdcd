"""What a body and the gateways saw: plain values, times in Unix seconds (they may step back)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Literal

from .autoscale import ScalingPolicy
from .capacity import SpotPolicy
from .interruption import Notice
from .latency import Judged
from .model_memory import MemoryUse, ModelNeeds
from .reasons import Reason
from .rollout import RolloutPolicy
from .scaling_memory import Counts
from .standby import PoolOffer
from .startup_problem import Refusal, StartupProblem
from .worker_speed import Work

LOST_AFTER = 30.0  # seconds beyond the time by which a stopping worker must be gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One ModelDeployment, reduced to what decisions need."""

    namespace: str
    name: str
    uid: str = ""
    generation: int = 0
    created: float
    revision: str  # hash of all that a worker is started with; not the hub's spec.model.revision
    scaling: ScalingPolicy
    rollout: RolloutPolicy = field(default_factory=RolloutPolicy)
    drain_timeout: float = 60.0  # seconds that running requests get when the fleet shrinks
    served_names: tuple[str, ...] = ()  # asked for; see names.owners
    claimed: frozenset[str] = frozenset()  # of these it had, as its memory says
    yielded: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Of these another namespace had, as its memory says: name -> key of who had it."""
    max_queue: int = 1000
    hold_timeout: float = 600.0
    # The newest goes first once the oldest request waits for so many seconds; 0: always in order.
    overload_target: float = 0.0
    routing_policy: Literal["PrefixAware", "LeastOutstanding"] = "PrefixAware"
    cold_start_deadline: float = 1800.0  # seconds that a wake may take
    warm_pool: str = ""  # whose standbys it claims; empty: any pool's; NO_POOL: none's
    keeps_weights: bool = False  # on its nodes: what one worker fetched the next one finds there
    accelerators: tuple[str, ...] = ()  # AcceleratorClasses, best first; empty: anywhere
    fallback_after: float = 60.0  # seconds that a worker waits for one of them
    cheapest: bool = False  # the classes are in no order: the price per token decides
    min_saving: float = 0.2  # share of the cost, above which running workers are replaced for it
    needs: ModelNeeds = field(default_factory=ModelNeeds)  # estimated, with `cheapest`
    speed_key: str = ""  # with `cheapest`: another one where measured speeds do not hold any more
    spot: SpotPolicy | None = None  # None: pods ask neither for spot nor for on demand
    task: str = ""  # Generate or Embed; empty: the checkpoint says it
    # What its user must correct, found by the body ("spec.model.tokenSecretRef: ..."): while it is
    # set no worker is started, and Stalled shows it.
    error: str = ""
    error_reason: Reason = Reason.INVALID_SPEC
    # Why the last worker could not be started; None once one was. Until its retry_at none is tried.
    refusal: Refusal | None = None

    @property
    def key(self) -> str:
        """`namespace/name`: what the model is called in every part."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A pod or process that exists, as the body sees it (states: docs/worker-lifecycle.md)."""

    namespace: str
    name: str  # names.worker_name(deployment, revision, ordinal)
    uid: str  # another start is another uid: the pod's, or one that the body makes up
    revision: str
    ordinal: int
    created: float
    address: str = ""  # host:port of its gRPC server; empty: not known yet
    tls_name: str = ""  # that its certificate must have; empty: it speaks no TLS
    tls_address: str = ""  # host:port where it speaks TLS
    draining_since: float | None = None  # when `Unroute` was carried out; None: it was not
    stopping: bool = False  # `Stop` was carried out, or another client deleted the pod
    gone_by: float | None = None  # when a stopping one must be gone, Unix seconds; None: unknown
    failure: str | None = None  # why it exited without being stopped; None: it did not exit
    failure_reason: Reason = Reason.WORKER_FAILED
    problem: StartupProblem | None = None  # why it does not start, or that its node is lost
    accelerator: str = ""  # the AcceleratorClass that it was made for
    accelerator_generation: int = 0  # of the class when it was made
    placed_at: float | None = None  # when it got its node, Unix seconds; None: it has none
    started_at: float | None = None  # when its process began to run; None: it did not
    node: str = ""  # that it is on; empty: none, or this machine
    # The WarmPool (`namespace/name`) that it stood by in; empty: it was started for the deployment.
    # A claimed worker was created, placed and started when it was claimed.
    claimed_from: str = ""
    zone: str = ""  # of its node; empty: not known
    capacity: str = ""  # Spot or OnDemand: what it was made for, else what its node is
    notice: Notice | None = None  # that it, or its node, is going to end
    protected: bool | None = None  # node controllers leave it alone; None: there are none

    @property
    def id(self) -> str:
        """What gateways call it: `namespace/name`, unique in an installation."""
        return f"{self.namespace}/{self.name}"

    @property
    def is_serving(self) -> bool:
        """Whether gateways may route to it: it neither exited nor drains nor stops."""
        return self.failure is None and not self.stopping and self.draining_since is None

    def is_lost(self, now: float) -> bool:
        """Whether its node is gone, so that it cannot end: its name is taken until that heals."""
        return self.stopping and self.gone_by is not None and now >= self.gone_by + LOST_AFTER


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
    phases: tuple[tuple[str, float], ...] = ()
    """Of its load so far, each with its begin (Unix seconds); none: an older version."""
    ready_at: float = 0.0  # when its load was done, Unix seconds; 0: it is not, or not known
    model: str = ""  # that it holds or loads, `namespace/name`; empty: none, or not known
    digest: str = ""  # model_digest of what it holds
    computed_by: str = ""  # which of the worker's paths computes the model, for a person
    memory: MemoryUse | None = None  # None: not known yet, or an older version
    # Counters change with every step: they make no Stats another one, or each would wake a plan.
    work: Work = field(default_factory=Work, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayReport:
    """The latest signals of one connected gateway about one model."""

    gateway: str
    heard: bool = True  # False: connected, but its view does not have this model yet
    waiting: int = 0
    running: int = 0
    last_request: float = 0.0  # 0: none since the gateway started
    oldest_wait: float = 0.0
    requests: int = 0  # that came since the gateway's start
    judged: Judged = field(default_factory=Judged)
    reachable: frozenset[str] = frozenset()  # ids of workers that it would route to now
    hears: frozenset[str] = frozenset()  # of workers whose Stats it gets, draining ones too
    taken: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Requests of this gateway that a worker has, by the worker's id; none: 0."""
    awaited_revisions: frozenset[str] = frozenset()
    """Revisions that began streams which wait here, while no routable worker can resume them."""
    tls_problems: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Why no certificate was agreed upon with a worker, by its id."""


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
    def counts(self) -> Counts:
        """Counters of all gateways that were heard, and of all workers."""
        requests: dict[str, int] = {}
        judged: dict[str, Judged] = {}
        for gateway in self.gateways:
            if gateway.heard:
                name = gateway.gateway  # two may have the same one
                requests[name] = requests.get(name, 0) + gateway.requests
                judged[name] = judged.get(name, Judged()).plus(gateway.judged)
        works = {name: stats.work for name, stats in self.stats.items()}
        return Counts(requests=requests, judged=judged, works=works)

    @property
    def last_request(self) -> float:
        """Arrival of the latest request at any gateway; 0: none known."""
        return max((gateway.last_request for gateway in self.gateways), default=0.0)

    @property
    def awaited_revisions(self) -> frozenset[str]:
        """Revisions of which a worker is needed for streams that wait to be resumed."""
        return frozenset().union(*(gateway.awaited_revisions for gateway in self.gateways))

    def tls_problem(self, worker_id: str) -> str:
        """What some gateway says of its certificate; empty: nothing."""
        said = (gateway.tls_problems.get(worker_id, "") for gateway in self.gateways)
        return next(filter(None, said), "")

    def hears(self, worker_id: str) -> bool:
        """Whether any gateway hears of it."""
        return any(worker_id in g.hears or worker_id in g.reachable for g in self.gateways)

    def is_idle(self, worker_id: str) -> bool:
        """Nothing comes to it and nothing runs on it, as all gateways and it itself say."""
        stats = self.stats.get(worker_id)
        return (
            self.complete
            and self.reach(worker_id) == "none"
            and not any(gateway.taken.get(worker_id) for gateway in self.gateways)
            and (stats is None or stats.running == 0)
        )

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
class PriceChange:
    """What an hour costs from a moment on; None as in Accelerator."""

    at: float  # Unix seconds
    price: Decimal | None = None
    spot_price: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """An AcceleratorClass, reduced to what decisions need; all of what one worker takes."""

    generation: int = 0
    price: Decimal | None = None  # an hour of one worker's share; None: the class has none
    spot_price: Decimal | None = None  # the same on spot; None: as on demand
    currency: str = ""  # of both; empty: not said
    price_changes: tuple[PriceChange, ...] = ()  # by time; see prices.with_current_prices
    memory: int = 0  # bytes for the model; 0: not said
    bandwidth: int = 0  # bytes a second that its memory delivers; 0: not said


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRevision:
    """A revision in the history: the body can start a worker of it."""

    revision: str
    number: int  # grows with each change of the spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What a body sees of one deployment, from its caches."""

    deployment: Deployment
    workers: tuple[Worker, ...] = ()
    accelerators: Mapping[str, Accelerator] = field(default_factory=lambda: MappingProxyType({}))
    """The AcceleratorClasses that exist, by name."""
    owners: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """The owner of each short name (see names.owners): short name -> key of a deployment."""
    history: tuple[PastRevision, ...] = ()  # in any order
    pools: tuple[PoolOffer, ...] = ()  # that it may claim standbys of, in any order
    keeps_budget: bool = False  # whether the body limits evictions
    min_available: int | None = None  # ready workers that evictions leave; None: no limit yet

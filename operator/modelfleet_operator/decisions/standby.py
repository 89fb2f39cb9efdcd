"""Workers that stand by in a warm pool, as pools and deployments see them: plain values."""

from __future__ import annotations

from dataclasses import dataclass

from .startup_problem import StartupProblem

NO_POOL = "None"  # Deployment.warm_pool of one that claims no standby


@dataclass(frozen=True, slots=True, kw_only=True)
class Standby:
    """A worker that was started for a pool; it may be a deployment's by now."""

    namespace: str
    name: str  # pool.standby_name(pool, template, ordinal)
    uid: str
    pool: str  # `namespace/name`
    template: str  # hash of all that it was started with
    ordinal: int
    created: float
    address: str = ""  # host:port of its gRPC server; empty: not known yet
    version: str = ""  # of its object: a claim and a removal hold for this one only
    is_up: bool = False  # its process takes calls; imports go on beside, a load waits for them
    claimed_by: str = ""  # `namespace/name` of the deployment that it belongs to; empty: none
    claimed_at: float = 0.0  # Unix seconds; 0: never, or not known
    stopping: bool = False
    failure: str | None = None  # why it exited without being stopped; None: it did not
    problem: StartupProblem | None = None  # why it does not start
    accelerator: str = ""
    accelerator_generation: int = 0  # of the class when it was made
    placed_at: float | None = None  # when it got its node, Unix seconds; None: it has none
    node: str = ""  # that it is on; empty: none, or this machine
    capacity: str = ""  # Spot or OnDemand, as its node says; empty: it says neither
    leaves: str = ""  # what its node said of its end, for a person; empty: it stays

    @property
    def id(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def is_unclaimed(self) -> bool:
        """Whether the pool keeps it: it neither exited nor stops, and no deployment has it."""
        return not self.claimed_by and not self.stopping and self.failure is None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOffer:
    """What one pool has for one deployment."""

    pool: str  # `namespace/name`
    accelerator: str = ""  # class of its standbys; empty: none
    loaded_model: str = (
        ""  # `namespace/name` of the deployment whose weights they hold; empty: none
    )
    refusal: str = ""  # why the deployment's workers cannot be made of them; empty: they can
    standbys: tuple[Standby, ...] = ()  # that can be claimed now
    counted_on: int = 0  # so many starts of the deployment may be claims: see pool.count_on

    @property
    def name(self) -> str:
        """Without the namespace."""
        return self.pool.partition("/")[2]

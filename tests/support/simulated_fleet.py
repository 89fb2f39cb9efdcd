"""A fleet on paper: it carries plans out in simulated time, and gateways report what is there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from modelfleet_operator.decisions.actions import (
    Action,
    Create,
    Forget,
    Record,
    Remove,
    Reroute,
    Stop,
    Unroute,
)
from modelfleet_operator.decisions.autoscale import ScalingPolicy
from modelfleet_operator.decisions.memory import Memory
from modelfleet_operator.decisions.names import owners
from modelfleet_operator.decisions.observed import (
    Deployment,
    GatewayReport,
    Observed,
    PastRevision,
    Signals,
    Worker,
    WorkerState,
    WorkerStats,
)
from modelfleet_operator.decisions.plan import Plan, make_plan
from modelfleet_operator.decisions.status import Status

LOADING_TIME = 3.0  # seconds from creation to ready
DRAIN_TIME = 1.0


def policy(**changes) -> ScalingPolicy:
    defaults = {
        "min_replicas": 0,
        "max_replicas": 4,
        "target_queue_depth": 8,
        "idle_timeout": 60.0,
        "scale_down_delay": 30.0,
    }
    return ScalingPolicy(**(defaults | changes))


def deployment(name: str = "tiny", **changes) -> Deployment:
    scaling = changes.pop("scaling", None) or policy()
    defaults = {
        "namespace": "default",
        "created": 1000.0,
        "revision": "aaaa",
        "served_names": (name,),
        "generation": 1,
    }
    return Deployment(name=name, scaling=scaling, **(defaults | changes))


def worker(ordinal: int = 0, *, revision: str = "aaaa", **changes) -> Worker:
    name = f"tiny-{revision}-{ordinal}"
    defaults = {
        "namespace": "default",
        "name": name,
        "uid": f"uid-{name}",
        "created": 1000.0,
        "address": f"127.0.0.1:{7000 + ordinal}",
    }
    return Worker(revision=revision, ordinal=ordinal, **(defaults | changes))


def stats(state: WorkerState = WorkerState.READY, **changes) -> WorkerStats:
    return WorkerStats(state=state, **changes)


def report(gateway: str = "gw", *, reachable: Iterable[str] = (), **changes) -> GatewayReport:
    return GatewayReport(gateway=gateway, reachable=frozenset(reachable), **changes)


@dataclass
class SimulatedFleet:
    """Load is set from outside; workers get ready by themselves unless they are broken."""

    deployment: Deployment
    now: float = 1000.0
    gateways: tuple[str, ...] = ("gw",)
    waiting: int = 0
    running: int = 0
    last_request: float = 0.0
    broken: set[str] = field(default_factory=set)  # revisions of which every worker exits
    frozen: set[str] = field(default_factory=set)  # ids that no gateway reaches
    memory: Memory = field(default_factory=Memory)
    status: Status | None = None
    plan: Plan | None = None
    workers: dict[str, Worker] = field(default_factory=dict)
    actions: list[tuple[float, Action]] = field(default_factory=list)
    started: int = 0
    streams: dict[str, int] = field(default_factory=dict)  # by worker: they never end by themselves
    awaited: dict[str, int] = field(default_factory=dict)  # by revision: streams without a worker
    history: dict[str, int] = field(default_factory=dict)  # revision -> number
    says: dict[str, WorkerStats] = field(default_factory=dict)  # by worker: Stats of its own
    cut: int = 0  # streams that ran on a worker that was stopped
    _ends: dict[str, float] = field(default_factory=dict)

    def observe(self) -> Observed:
        return Observed(
            deployment=self.deployment,
            workers=tuple(self.workers.values()),
            owners=owners([self.deployment]),
            history=tuple(PastRevision(revision=r, number=n) for r, n in self.history.items()),
        )

    def is_up(self, worker: Worker) -> bool:
        return (
            worker.failure is None
            and worker.revision not in self.broken
            and self.now - worker.created >= LOADING_TIME
        )

    def signals(self) -> Signals:
        up = [w for w in self.workers.values() if self.is_up(w) and w.id not in self.frozen]
        reachable = [w.id for w in up if not w.stopping and w.draining_since is None]
        loading = stats(WorkerState.LOADING, phase="Weights", percent=40)
        running = {w.id: self.streams.get(w.name, 0) for w in self.workers.values()}
        return Signals(
            gateways=tuple(
                report(
                    name,
                    reachable=reachable,
                    hears=frozenset(w.id for w in up),
                    taken=running if place == 0 else {},
                    awaited_revisions=self._awaited_revisions() if place == 0 else frozenset(),
                    waiting=self.waiting + sum(self.awaited.values()) if place == 0 else 0,
                    running=self.running if place == 0 else 0,
                    last_request=self.last_request,
                )
                for place, name in enumerate(self.gateways)
            ),
            stats={
                w.id: self.says.get(w.name, stats(running=running[w.id]) if w in up else loading)
                for w in self.workers.values()
            }
            if self.gateways
            else {},
        )

    def reconcile(self) -> Plan:
        """Reconciles once; the plan's actions are carried out at once."""
        plan = make_plan(self.observe(), self.signals(), self.now, self.memory, self.status)
        self.plan, self.memory, self.status = plan, plan.memory, plan.status
        for action in plan.actions:
            self.actions.append((self.now, action))
            self._carry_out(action)
        return plan

    def run(self, seconds: float, step: float = 0.5) -> None:
        """Reconciles every `step` seconds."""
        end = self.now + seconds
        while self.now < end:
            self.now += step
            if self.waiting or self.running:
                self.last_request = self.now
            self._age()
            self._place_streams()
            self.reconcile()

    def change(self, **changes) -> None:
        """The user edits the spec."""
        generation = self.deployment.generation + 1
        self.deployment = replace(self.deployment, generation=generation, **changes)

    def kill(self, name: str, failure: str = "ended by SIGKILL") -> None:
        """Its streams go on elsewhere, or wait for a worker of its revision."""
        self.workers[name] = replace(self.workers[name], failure=failure)
        if count := self.streams.pop(name, 0):
            revision = self.workers[name].revision
            self.awaited[revision] = self.awaited.get(revision, 0) + count

    def existing(self) -> list[str]:
        """All that hold an accelerator: draining and ending ones, too."""
        return [w.name for w in self.workers.values() if w.failure is None]

    def alive(self, revision: str | None = None) -> list[str]:
        return [
            w.name
            for w in self.workers.values()
            if w.failure is None and not w.stopping and revision in (None, w.revision)
        ]

    def wanted(self) -> list[str]:
        """Those that neither drain nor end."""
        return [name for name in self.alive() if self.workers[name].draining_since is None]

    def routable(self) -> list[str]:
        """What a gateway would send requests to now."""
        ids = self.signals().gateways[0].reachable if self.gateways else frozenset()
        return [w.name for w in self.workers.values() if w.id in ids]

    def condition(self, kind: str) -> tuple[str, str]:
        condition = self.status.condition(kind)
        return condition.status, condition.reason

    def created(self) -> list[tuple[float, str]]:
        return [(time, a.name) for time, a in self.actions if isinstance(a, Create)]

    def _carry_out(self, action: Action) -> None:
        match action:
            case Create(name=name):
                assert name not in self.workers, f"{name} exists already"
                self.started += 1
                self.workers[name] = worker(
                    action.ordinal,
                    revision=action.revision,
                    uid=f"uid-{self.started}",
                    created=self.now,
                )
            case Record(revision=revision, number=number):
                self.history[revision] = number
            case Forget(revision=revision):
                del self.history[revision]
            case Unroute(worker=w):
                self.workers[w.name] = replace(w, draining_since=self.now)
            case Reroute(worker=w):
                self.workers[w.name] = replace(w, draining_since=None)
            case Stop(worker=w):
                self.workers[w.name] = replace(self.workers[w.name], stopping=True)
                self._ends[w.name] = self.now + DRAIN_TIME
                self.cut += self.streams.pop(w.name, 0)
            case Remove(worker=w):
                del self.workers[w.name]

    def _awaited_revisions(self) -> frozenset[str]:
        """Revisions of held streams that no routable worker could resume."""
        routable = {
            w.revision
            for w in self.workers.values()
            if w.failure is None and not w.stopping and w.draining_since is None and self.is_up(w)
        }
        return frozenset(self.awaited) - routable

    def _place_streams(self) -> None:
        for name in self.routable():
            if count := self.awaited.pop(self.workers[name].revision, 0):
                self.streams[name] = self.streams.get(name, 0) + count

    def _age(self) -> None:
        for name in [name for name, end in self._ends.items() if end <= self.now]:
            del self._ends[name]
            self.workers.pop(name, None)
        for w in list(self.workers.values()):
            if w.revision in self.broken and w.failure is None and self.now - w.created >= 1:
                self.kill(w.name, "exit code 1: error: no safetensors in /model")

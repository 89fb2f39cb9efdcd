"""What the status says about a deployment: only what was observed, and why."""

from __future__ import annotations

from dataclasses import dataclass

from .census import Census, retry_at
from .memory import Memory
from .observed import GatewayReport, Observed, Signals, WorkerState
from .status import (
    ColdStart,
    Condition,
    ConditionType,
    Queue,
    ScalingEvent,
    Status,
    Truth,
)

STALLED_AFTER = 3  # failures in a row
HISTORY = 10  # scaling steps that the status keeps
DEPLOYMENT_LABEL = "modelfleet.dev/deployment"

Finding = tuple[Truth, str, str]  # status, reason, message


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What a plan knows when it has decided."""

    seen: Observed
    signals: Signals
    now: float
    memory: Memory
    census: Census  # without the workers that the plan retires
    before: int  # replicas wanted until now
    target: int  # replicas wanted
    reason: str  # for the target
    missing: int  # workers that should exist and do not
    start_at: float  # when they may be started

    @property
    def is_proven(self) -> bool:
        """Whether the current revision has been ready once."""
        return self.memory.proven == self.seen.deployment.revision

    @property
    def is_asleep(self) -> bool:
        """Nothing runs, on purpose, and a request would wake it."""
        scaling = self.seen.deployment.scaling
        return (
            scaling.mode == "Auto"
            and self.target == 0
            and self.is_proven
            and not self.census.serving
        )


def make_status(outlook: Outlook, previous: Status | None) -> Status:
    """The whole status; `previous` gives the history and the times of unchanged conditions."""
    seen, census = outlook.seen, outlook.census
    existing = [w for w in seen.workers if w.failure is None and not w.stopping]
    cold = _cold_start(outlook)
    stalled = _stalled(outlook)
    findings: dict[ConditionType, Finding] = {
        "Ready": _ready(outlook, cold),
        "Reconciling": _reconciling(outlook, stalled),
        "Stalled": stalled,
        "NameConflict": _name_conflict(seen),
    }
    signals = outlook.signals
    return Status(
        observed_generation=seen.deployment.generation,
        conditions=tuple(
            _condition(type_, finding, outlook, previous) for type_, finding in findings.items()
        ),
        replicas=len(existing),
        ready_replicas=len(census.ready),
        selector=f"{DEPLOYMENT_LABEL}={seen.deployment.name}",
        revision=seen.deployment.revision,
        queue=Queue(waiting=signals.waiting, running=signals.running) if signals.gateways else None,
        scaling_history=_history(outlook, previous),
        cold_start=cold,
    )


def _condition(
    type_: ConditionType, finding: Finding, outlook: Outlook, previous: Status | None
) -> Condition:
    status, reason, message = finding
    # An older version's status may lack a condition.
    before = {c.type: c for c in previous.conditions} if previous else {}
    same = type_ in before and before[type_].status == status
    changed = before[type_].changed if same else outlook.now
    return Condition(
        type=type_,
        status=status,
        reason=reason,
        message=message,
        changed=changed,
        generation=outlook.seen.deployment.generation,
    )


def _history(outlook: Outlook, previous: Status | None) -> tuple[ScalingEvent, ...]:
    history = previous.scaling_history if previous else ()
    if outlook.target == outlook.before:
        return history
    event = ScalingEvent(
        time=outlook.now, before=outlook.before, after=outlook.target, reason=outlook.reason
    )
    return (*history, event)[-HISTORY:]


def _ready(outlook: Outlook, cold: ColdStart | None) -> Finding:
    gateways = outlook.signals.gateways
    if not gateways:
        return "Unknown", "NoGateway", "no gateway is connected, so nobody can tell what it reaches"
    behind = [gateway.gateway for gateway in gateways if not gateway.heard]
    if behind:
        return "False", "GatewayBehind", f"{', '.join(behind)} has not taken the latest view yet"
    if outlook.is_asleep:
        return "True", "Asleep", "no worker runs; the first request wakes one"
    lost = [gateway.gateway for gateway in gateways if not _is_served(outlook, gateway)]
    if not lost:
        return (
            "True",
            "Serving",
            f"{len(outlook.census.ready)} of {_replicas(outlook.target)} ready at every gateway",
        )
    return "False", *_why_not_ready(outlook, cold, lost)


def _why_not_ready(outlook: Outlook, cold: ColdStart | None, lost: list[str]) -> tuple[str, str]:
    deployment, failures = outlook.seen.deployment, outlook.memory.failures
    if deployment.error:
        return "InvalidSpec", deployment.error
    if any(_says_ready(outlook, worker.id) for worker in outlook.census.serving):
        return "Unreachable", f"{', '.join(lost)} reaches no ready worker"
    if failures.count:
        return "WorkerFailed", f"{_times(failures.count)} in a row: {failures.error}"
    if outlook.target == 0 and not outlook.census.serving:
        return "ScaledToZero", "spec.scaling.replicas is 0, so nothing serves"
    reason = "Waking" if outlook.is_proven else "Starting"
    trouble = next((w.trouble for w in outlook.census.serving if w.trouble), "")
    if trouble:
        return reason, trouble
    return reason, f"{cold.phase}, {cold.percent} %" if cold else "no worker is ready yet"


def _is_served(outlook: Outlook, gateway: GatewayReport) -> bool:
    return any(
        worker.id in gateway.reachable and _says_ready(outlook, worker.id)
        for worker in outlook.census.serving
    )


def _says_ready(outlook: Outlook, worker_id: str) -> bool:
    stats = outlook.signals.stats.get(worker_id)
    return stats is not None and stats.state is WorkerState.READY


def _reconciling(outlook: Outlook, stalled: Finding) -> Finding:
    """False while stalled: kstatus takes the first of the two that is true."""
    census, target = outlook.census, outlook.target
    if stalled[0] == "True":
        return "False", "Stalled", "it does not get further by itself"
    if census.old:
        done = f"{census.ready_current} of {_replicas(target)} of the new revision ready"
        return "True", "Rollout", f"{done}, {len(census.old)} of an old one left"
    if census.ready_current < len(census.current) or outlook.missing:
        reason = "ScalingUp" if outlook.is_proven else "Starting"
        return (
            "True",
            reason,
            f"{census.ready_current} of {_replicas(target)} ready: {outlook.reason}",
        )
    ending = sum(w.failure is None for w in outlook.seen.workers) - len(census.serving)
    if ending > 0:
        return "True", "ScalingDown", f"{ending} draining: {outlook.reason}"
    return "False", "AsDesired", f"{_replicas(target)} wanted: {outlook.reason}"


def _stalled(outlook: Outlook) -> Finding:
    failures = outlook.memory.failures
    if outlook.seen.deployment.error:
        return "True", "InvalidSpec", outlook.seen.deployment.error
    if failures.count >= STALLED_AFTER:
        return "True", "WorkersFail", f"{_times(failures.count)} in a row: {failures.error}"
    return "False", "Progressing", "nothing is in the way"


def _name_conflict(seen: Observed) -> Finding:
    """The older deployment has the short name; the younger is reachable by its full name."""
    deployment = seen.deployment
    lost = [
        f"{name!r} belongs to {seen.owners[name]}, which is older"
        for name in deployment.served_names
        if seen.owners.get(name, deployment.key) != deployment.key
    ]
    if not lost:
        return "False", "NoConflict", "every served name is its own"
    return "True", "NameTaken", f"{'; '.join(lost)}: ask for {deployment.key!r} instead"


def _cold_start(outlook: Outlook) -> ColdStart | None:
    """The worker that will be ready next; None if nothing is on its way."""
    coming = [
        worker
        for worker in outlook.census.serving
        if worker.uid not in outlook.memory.was_ready | outlook.census.ready
    ]
    progress = []
    for worker in coming:
        stats = outlook.signals.stats.get(worker.id)
        learned = worker.created + outlook.memory.cold_start_seconds
        eta = learned if learned > max(outlook.now, worker.created) else 0.0
        phase, percent = "Pending" if worker.trouble else "Starting", 0
        if stats is not None and stats.phase:
            phase, percent, eta = stats.phase, int(stats.percent), stats.eta or eta
        progress.append(ColdStart(phase=phase, percent=percent, eta=eta))
    if progress:
        return max(progress, key=lambda cold: cold.percent)
    if not outlook.missing or outlook.seen.deployment.error:
        return None
    learned = outlook.start_at + outlook.memory.cold_start_seconds
    waiting = retry_at(outlook.memory.failures) > outlook.now
    return ColdStart(
        phase="BackOff" if waiting else "Starting",
        eta=learned if learned > outlook.now else 0.0,
    )


def _times(count: int) -> str:
    return "a worker failed once" if count == 1 else f"workers failed {count} times"


def _replicas(count: int) -> str:
    return f"{count} replica" if count == 1 else f"{count} replicas"

"""What the gateway and the workers tell the operator, on simulated time."""

from __future__ import annotations

from ..decisions.observed import GatewayReport, Signals, WorkerState, WorkerStats
from ..decisions.scaling_memory import Counts
from .fleet import SimulatedFleet
from .gateway import Gateway
from .worker import START, SimulatedWorker

GATEWAY = "gateway"
SIMULATED = "simulated"  # every worker's model_digest


def signals(fleet: SimulatedFleet, gateway: Gateway, now: float) -> Signals:
    """Of the one gateway, and of all workers whose process runs."""
    told, counted = _that_speak(fleet), gateway.counted
    return Signals(
        gateways=(
            GatewayReport(
                gateway=GATEWAY,
                waiting=gateway.waiting,
                running=sum(w.outstanding for w in told),
                last_request=last_request(gateway),
                requests=counted.requests,
                judged=counted.judged,
                reachable=frozenset(w.seen.id for w in told if w.seen.is_serving),
                hears=frozenset(w.seen.id for w in told),
                taken={w.seen.id: w.outstanding for w in told if w.outstanding},
            ),
        ),
        stats={w.seen.id: _stats(w, fleet.deployment.key, now) for w in told},
    )


def counts(fleet: SimulatedFleet, gateway: Gateway, now: float) -> Counts:
    """What `signals` counts, and no more."""
    counted = gateway.counted
    return Counts(
        requests={GATEWAY: counted.requests},
        judged={GATEWAY: counted.judged},
        works={w.seen.id: w.engine.work(now) for w in _that_speak(fleet)},
    )


def last_request(gateway: Gateway) -> float:
    """Unix seconds; 0: none came yet."""
    return max(gateway.counted.last_request + START, 0.0)


def _that_speak(fleet: SimulatedFleet) -> list[SimulatedWorker]:
    told = [w for w in fleet.workers.values() if w.phase or w.is_ready]
    return [w for w in told if w.seen.failure is None and not w.is_gone]


def _stats(worker: SimulatedWorker, model: str, now: float) -> WorkerStats:
    work = worker.engine.work(now)
    if worker.phase and not worker.is_ready:
        return WorkerStats(
            state=WorkerState.LOADING, phase=worker.phase, phases=worker.said, work=work
        )
    state = WorkerState.DRAINING if worker.seen.stopping else WorkerState.READY
    return WorkerStats(
        state=state,
        running=worker.outstanding,
        model=model,
        digest=SIMULATED,
        phases=worker.said,
        ready_at=worker.ready_at + START,
        work=work,
    )

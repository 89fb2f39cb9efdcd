"""What gateways are told of one model: the limits, names and workers that they route by."""

from __future__ import annotations

from dataclasses import dataclass

from .causes import Cause, why_nothing_comes
from .cold_start import WakePhase
from .notices import hands_over
from .plan_context import PlanContext
from .reasons import Reason
from .status import Status

LONGEST_CAUSE = 600  # characters
PACKED = 0.25  # of the requests in flight with which a worker keeps its latency


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRoute:
    """A worker in the gateways' view."""

    id: str
    address: str
    routable: bool
    revision: str
    hand_over: bool = False  # what runs on it goes on elsewhere, now
    tls_name: str = ""  # that its certificate must have; empty: it has none
    tls_address: str = ""  # where it takes it


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelView:
    """One model in the gateways' view."""

    model: str
    served_names: tuple[str, ...]
    max_queue: int
    hold_timeout: float
    created: float
    workers: tuple[WorkerRoute, ...]
    eta: float
    phase: str
    cause: str = ""  # why no worker will come by itself; empty: one is there, or may come
    revisions: tuple[str, ...] = ()  # workers of these can be started
    target_in_flight: int = 0  # of one worker, with which it keeps its latency; 0: not known
    ttft_target: float = 0.0  # seconds that latency is judged by; 0: it is not
    tpot_target: float = 0.0
    overload_target: float = 0.0  # see Deployment
    routing_policy: str = "LeastOutstanding"  # see Deployment
    pack_in_flight: int = (
        0  # requests up to which a worker serves alone what several could; 0: none
    )
    task: str = ""  # see Deployment
    wake: tuple[WakePhase, ...] = ()  # of the worker that is ready next, while none is


def make_view(context: PlanContext, status: Status, cause: Cause | None) -> ModelView:
    """Everything that runs stays in the view: gateways finish there what they began.

    tiny-a-0 serves, tiny-a-1 drains, tiny-a-2 has exited -> tiny-a-0 routable, tiny-a-1 not.
    """
    seen = context.seen
    deployment = seen.deployment
    serving = {worker.uid for worker in context.groups.serving}
    cold = status.cold_start
    nothing_comes = why_nothing_comes(context, cause)
    may_be_near = context.is_proven and not nothing_comes
    return ModelView(
        model=deployment.key,
        served_names=tuple(
            name for name in deployment.served_names if seen.owners.get(name) == deployment.key
        ),
        max_queue=deployment.max_queue,
        hold_timeout=deployment.hold_timeout,
        overload_target=deployment.overload_target,
        routing_policy=deployment.routing_policy,
        pack_in_flight=_pack_in_flight(context),
        task=deployment.task,
        wake=cold.phases if cold is not None and not context.groups.ready else (),
        created=deployment.created,
        workers=tuple(
            WorkerRoute(
                id=w.id,
                address=w.address,
                routable=w.uid in serving,
                revision=w.revision,
                hand_over=w.uid not in serving and hands_over(w, context),
                tls_name=w.tls_name,
                tls_address=w.tls_address,
            )
            # In the order in which a smaller fleet keeps them (worker_changes.py): gateways use the
            # first ones at low load.
            for w in sorted(seen.workers, key=lambda w: (w.created, w.ordinal, w.id))
            if w.address and w.failure is None
        ),
        # A revision that was never ready and is in trouble is not as near as it says.
        eta=cold.eta if cold and (cause is None or may_be_near) else 0.0,
        phase=_phase(context, status, cause)[:LONGEST_CAUSE],
        cause=nothing_comes[:LONGEST_CAUSE],
        revisions=tuple(sorted({deployment.revision, *(past.revision for past in seen.history)})),
        target_in_flight=context.memory.scaling.told,
        ttft_target=deployment.scaling.targets.ttft,
        tpot_target=deployment.scaling.targets.tpot,
    )


def _pack_in_flight(context: PlanContext) -> int:
    """Where the fleet may shrink: a quarter of those with which a worker keeps spec.scaling.slo.

    It keeps it with 16 -> 4: of 3 requests on 4 workers all are on the first, and the others may go
    without having to hand anything over. No latency is asked for, or none learned yet -> 1: more
    would make it worse. minReplicas 4, maxReplicas 4 -> 0.
    """
    policy = context.seen.deployment.scaling
    if policy.mode == "Auto" and policy.min_replicas >= policy.max_replicas:
        return 0
    return max(int(context.memory.scaling.told * PACKED), 1)


def _phase(context: PlanContext, status: Status, cause: Cause | None) -> str:
    """What its next worker does, and what is in its way; else the status's reason; empty: ready.

    It downloads, its predecessor failed -> "Download (LoadFailed: a worker failed once: ...)".
    """
    if status.cold_start is not None:
        trouble = f" ({cause.reason.value}: {cause.message})" if cause is not None else ""
        return f"{status.cold_start.phase}{trouble}"
    if status.ready_replicas:
        return ""
    if context.is_asleep or context.is_previous_asleep:
        return Reason.ASLEEP.value
    if cause is not None:
        return cause.reason.value
    nothing_wanted = context.target.replicas == 0 and not context.groups.serving
    return (Reason.SCALED_TO_ZERO if nothing_wanted else Reason.STARTING).value

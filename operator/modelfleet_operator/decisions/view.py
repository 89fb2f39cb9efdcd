"""What gateways are told of one model: the limits, names and workers that they route by."""

from __future__ import annotations

from dataclasses import dataclass

from .plan_context import PlanContext
from .status import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRoute:
    """A worker in the gateways' view."""

    id: str
    address: str
    routable: bool
    revision: str


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
    revisions: tuple[str, ...] = ()  # workers of these can be started


def make_view(context: PlanContext, status: Status) -> ModelView:
    """Everything that runs stays in the view: gateways finish there what they began.

    tiny-a-0 serves, tiny-a-1 drains, tiny-a-2 has exited -> tiny-a-0 routable, tiny-a-1 not.
    """
    seen = context.seen
    deployment = seen.deployment
    serving = {worker.uid for worker in context.groups.serving}
    cold = status.cold_start
    asleep = "" if status.ready_replicas else "Asleep"
    return ModelView(
        model=deployment.key,
        served_names=tuple(
            name for name in deployment.served_names if seen.owners.get(name) == deployment.key
        ),
        max_queue=deployment.max_queue,
        hold_timeout=deployment.hold_timeout,
        created=deployment.created,
        workers=tuple(
            WorkerRoute(id=w.id, address=w.address, routable=w.uid in serving, revision=w.revision)
            for w in sorted(seen.workers, key=lambda w: w.id)
            if w.address and w.failure is None
        ),
        eta=cold.eta if cold else 0.0,
        phase=cold.phase if cold else asleep,
        revisions=tuple(sorted({deployment.revision, *(past.revision for past in seen.history)})),
    )

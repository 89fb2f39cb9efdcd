"""A cluster's body that has just been started, against kmock's API server."""

from __future__ import annotations

from typing import Any

from kube_cluster import ApiServer, Cluster
from modelfleet_operator.cluster.api import ClusterApi
from modelfleet_operator.cluster.body import ClusterBody
from modelfleet_operator.cluster.known_pod import read_pod
from modelfleet_operator.cluster.pods import PodSettings
from modelfleet_operator.cluster.revisions import read_revision
from modelfleet_operator.decisions.observed import Observed
from modelfleet_operator.decisions.status import Condition, Queue, Status

KEY = "default/smol"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def a_body(
    api: ApiServer, kubernetes: ClusterApi, clock: Clock | None = None, **spec: Any
) -> tuple[ClusterBody, Observed]:
    """A body that has just been started, and what it sees of the deployment `smol`."""
    if not [name for (_, _, name) in api.objects if name == "smol"]:
        await Cluster(api).apply(**spec)
    body = ClusterBody(kubernetes, PodSettings(image="worker:1"), clock or Clock())
    revisions = [read_revision(kept) for kept in api.revisions().values()]
    body.attach(
        {KEY: [body.cache.read(api.model())]},
        {KEY: [read_pod(pod) for pod in api.pods().values()]},
        {},
        {KEY: [kept for kept in revisions if kept is not None]},
    )
    seen = body.observe(KEY)
    assert seen is not None
    return body, seen


def status(seen: Observed, *, reason: str = "Serving", waiting: int = 0) -> Status:
    ready = Condition(
        type="Ready", status="True", reason=reason, message="", changed=1.0, generation=1
    )
    return Status(
        observed_generation=seen.deployment.generation,
        conditions=(ready,),
        queue=Queue(waiting=waiting, running=0),
    )

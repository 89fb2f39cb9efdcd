"""Which events wake a reconciler, and that those which change nothing that it sees do not."""

from __future__ import annotations

from typing import Any

import kopf
import pytest

from cluster_body import KEY, Clock, a_body, status
from kube_cluster import ApiServer, Cluster
from modelfleet_operator.cluster.api import ClusterApi
from modelfleet_operator.cluster.body import ClusterBody
from modelfleet_operator.cluster.disruption import read_budget
from modelfleet_operator.cluster.handlers import (
    budget_changed,
    deployment_changed,
    node_changed,
    pod_changed,
)
from modelfleet_operator.cluster.known_pod import KnownPod, read_pod
from modelfleet_operator.cluster.memo import OperatorMemo
from modelfleet_operator.cluster.nodes import read_node
from modelfleet_operator.decisions.actions import AllowDisruptions, Create
from modelfleet_operator.decisions.memory import Memory
from modelfleet_operator.decisions.observed import Observed
from modelfleet_operator.pools import PoolKeeper


class Woken:
    """What stands for the reconcilers: `keys` are those that were woken."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def wake(self, key: str) -> None:
        self.keys.append(key)


def a_memo(body: ClusterBody) -> tuple[Any, Woken]:
    woken = Woken()
    keeper = PoolKeeper(body.pools, body.pools.ledger, Clock())
    return OperatorMemo(body=body, reconcilers=woken, keeper=keeper), woken  # type: ignore[arg-type]


async def with_a_pod(
    api: ApiServer, kubernetes: ClusterApi
) -> tuple[ClusterBody, Observed, dict[str, Any]]:
    """A body that has made a worker, and its pod."""
    body, seen = await a_body(api, kubernetes)
    revision = seen.deployment.revision
    await body.carry_out(Create(f"smol-{revision}-0", revision, 0, "because"), seen)
    (pod,) = api.pods().values()
    return body, seen, pod


async def test_our_own_writes_to_the_status_wake_no_reconciler(
    api: ApiServer, kubernetes: ClusterApi
):
    body, seen = await a_body(api, kubernetes)
    memo, woken = a_memo(body)

    async def happened() -> None:
        event: Any = {"type": "MODIFIED", "object": api.model()}
        await deployment_changed(event=event, body=kopf.Body(api.model()), memo=memo)

    await happened()
    await body.write_status(seen, status(seen), Memory())
    await happened()
    assert woken.keys == [KEY]
    await Cluster(api).change({"scaling": {"minReplicas": 2}})
    await happened()
    assert woken.keys == [KEY, KEY]


async def test_a_pods_event_wakes_where_it_changes_what_is_read_of_it(
    api: ApiServer, kubernetes: ClusterApi
):
    body, _, pod = await with_a_pod(api, kubernetes)
    memo, woken = a_memo(body)
    index: dict[str, list[KnownPod]] = {}
    body.attach({}, index, {}, {})

    async def happened(kind: str, **status: Any) -> int:
        """How often it woke, since the start."""
        changed = {**pod, "status": status}
        index[KEY] = [read_pod(changed)]
        event: Any = {"type": kind, "object": changed}
        await pod_changed(event=event, body=kopf.Body(changed), memo=memo)
        return len(woken.keys)

    assert await happened("ADDED") == 1
    initialized = [{"type": "Initialized", "status": "True"}]
    assert await happened("MODIFIED", conditions=initialized) == 1, "nothing reads it"
    assert await happened("MODIFIED", conditions=initialized, podIP="10.0.0.7") == 2
    assert await happened("MODIFIED", podIP="10.0.0.7") == 2
    assert await happened("DELETED", podIP="10.0.0.7") == 3
    assert set(woken.keys) == {KEY}


async def test_a_node_wakes_whom_it_carries_when_it_says_that_it_goes(
    api: ApiServer, kubernetes: ClusterApi
):
    body, _, pod = await with_a_pod(api, kubernetes)
    memo, woken = a_memo(body)
    there = {**pod, "spec": {**pod["spec"], "nodeName": "n1"}}
    nodes: dict[str, Any] = {}
    body.attach({}, {KEY: [read_pod(there)]}, {}, {}, nodes)

    async def happened(name: str, **spec: Any) -> int:
        node: Any = {"metadata": {"name": name}, "spec": spec, "status": {"images": [len(spec)]}}
        nodes[name] = [read_node(node, 0.0)]
        event: Any = {"type": "MODIFIED", "object": node}
        await node_changed(event=event, body=kopf.Body(node), memo=memo)
        return len(woken.keys)

    assert await happened("n1") == 1
    assert await happened("n1", podCIDR="10.1.0.0/24") == 1, "nothing reads it"
    assert await happened("n2", unschedulable=True) == 1, "none of ours is there"
    assert await happened("n1", unschedulable=True) == 2


@pytest.mark.parametrize(("by_us", "wakes"), [(True, 0), (False, 1)])
async def test_a_disruption_budget_wakes_when_another_hand_changed_it(
    api: ApiServer, kubernetes: ClusterApi, by_us: bool, wakes: int
):
    body, seen = await a_body(api, kubernetes)
    memo, woken = a_memo(body)
    await body.carry_out(AllowDisruptions(1, "2 workers are wanted"), seen)
    (budget,) = [o.raw for k, o in api.objects.items() if k[0].plural == "poddisruptionbudgets"]
    if not by_us:
        budget = {**budget, "spec": {**budget["spec"], "minAvailable": 7}}
    body.budgets.attach({KEY: [read_budget(budget)]})
    event: Any = {"type": "MODIFIED", "object": budget}
    for _ in range(2):
        await budget_changed(event=event, body=kopf.Body(budget), memo=memo)
    assert len(woken.keys) == wakes

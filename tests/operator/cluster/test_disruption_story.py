"""Nodes that say that they go, and what pods and budgets say to node controllers, on an API."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from kube_cluster import ApiServer, Gateway, eventually

StartOperator = Callable[..., Any]
DO_NOT_DISRUPT = "karpenter.sh/do-not-disrupt"
SAFE_TO_EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict"
BUDGET = "modelfleet-smol"
SPOT_ITN = {
    "key": "aws-node-termination-handler/spot-itn",
    "value": "event",
    "effect": "NoSchedule",
}
SHUTDOWN = {
    "type": "Ready",
    "status": "False",
    "reason": "KubeletNotReady",
    "message": "node is shutting down",
}


def annotations(api: ApiServer, name: str) -> dict[str, str]:
    found: dict[str, str] = api.pods()[name]["metadata"].get("annotations", {})
    return found


async def running_pod(api: ApiServer, cluster: Any, node: str, *others: str) -> str:
    """The next pod, on this node and ready."""
    (name,) = await eventually(lambda: [n for n in api.running() if n not in others])
    await cluster.place(name, node)
    await cluster.start(name)
    return str(name)


async def test_a_cordoned_node_has_its_worker_replaced_before_it_goes(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply_node("n1", labels={"topology.kubernetes.io/zone": "a"})
        await cluster.apply()
        async with Gateway(cluster.fleet_address).connected() as gateway:
            first = await running_pod(api, cluster, "n1")
            await eventually(lambda: api.condition("Ready").get("status") == "True")
            await cluster.change_node("n1", {"spec": {"unschedulable": True}})
            second = await running_pod(api, cluster, "n2", first)
            await eventually(lambda: first not in api.running())
            assert second in api.running()
            affinity = api.pods()[second]["spec"]["affinity"]["nodeAffinity"]
            (rather,) = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
            assert rather["preference"]["matchExpressions"] == [
                {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["n1"]}
            ]
            await eventually(lambda: len(gateway.addresses()) == 1)
        events = [e["note"] for e in api.events("Interruption")]
    assert events == [f"{first} on node n1: Cordon (spec.unschedulable)"]


async def test_a_spot_notice_names_its_deadline_and_moves_streams(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply_node("n1", labels={"cloud.google.com/gke-spot": "true"})
        await cluster.apply(scaling={"minReplicas": 2})
        async with Gateway(cluster.fleet_address).connected() as gateway:
            await eventually(lambda: len(api.running()) == 2)
            names = sorted(api.running())
            await cluster.place(names[0], "n1")
            addresses = [await cluster.start(name) for name in names]
            await eventually(lambda: gateway.addresses() == set(addresses))
            gateway.taken[f"default/{names[0]}"] = 16
            await cluster.change_node("n1", {"spec": {"taints": [SPOT_ITN]}})
            await eventually(lambda: gateway.addresses() == {addresses[1]})
            await eventually(lambda: len(api.running()) == 3)
            status = await eventually(
                lambda: api.model()["status"] if "interruptions" in api.model()["status"] else None
            )
            (told,) = status["interruptions"]
            assert (told["kind"], told["node"]) == ("SpotReclaim", "n1")
            assert "deadline" in told
            assert status["spotReplicas"] == 1


async def test_annotations_follow_the_load_and_change_rarely(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply(scaling={"minReplicas": 2})
        async with Gateway(cluster.fleet_address).connected():
            await eventually(lambda: len(api.running()) == 2)
            names = list(api.running())
            assert {annotations(api, name)[DO_NOT_DISRUPT] for name in names} == {"true"}
            assert {annotations(api, name)[SAFE_TO_EVICT] for name in names} == {"false"}
            for name in names:
                await cluster.start(name)
            await eventually(
                lambda: not any(DO_NOT_DISRUPT in annotations(api, name) for name in names)
            )
            assert {annotations(api, name)[SAFE_TO_EVICT] for name in names} == {"true"}
        assert len(api.asked("PATCH", "pods")) == 2


async def test_workers_leave_silent_nodes_soon(api: ApiServer, start_operator: StartOperator):
    own = [{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}]
    async with start_operator() as cluster:
        await cluster.apply(podTemplate={"spec": {"tolerations": own}})
        (pod,) = (await eventually(api.running)).values()
    assert pod["spec"]["tolerations"] == [
        *own,
        {
            "key": "node.kubernetes.io/not-ready",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": 10,
        },
    ]


async def test_a_budget_leaves_all_but_one_and_heals(api: ApiServer, start_operator: StartOperator):
    async with start_operator() as cluster:
        await cluster.apply(scaling={"minReplicas": 3})
        found = await eventually(lambda: api.budgets().get(BUDGET))
        assert found["spec"]["minAvailable"] == 2
        assert found["spec"]["selector"] == {"matchLabels": {"modelfleet.dev/deployment": "smol"}}
        assert found["metadata"]["ownerReferences"][0]["kind"] == "ModelDeployment"
        await cluster.change({"scaling": {"minReplicas": 1, "maxReplicas": 1}})
        await eventually(lambda: api.budgets()[BUDGET]["spec"]["minAvailable"] == 1)
        await cluster.delete_budget(BUDGET)
        await eventually(lambda: BUDGET in api.budgets())


async def test_without_a_deployments_right_to_nodes_and_budgets_it_works_as_before(
    api: ApiServer, start_operator: StartOperator
):
    api.refuse_watching = frozenset({"nodes", "poddisruptionbudgets"})
    async with start_operator() as cluster:
        await cluster.apply()
        await eventually(lambda: len(api.running()) == 1)
    assert not api.budgets()


async def test_who_writes_budgets_of_its_own_says_so(api: ApiServer, start_operator: StartOperator):
    async with start_operator(disruption_budgets=False) as cluster:
        await cluster.apply()
        await eventually(lambda: len(api.running()) == 1)
    assert not api.budgets()
    assert not api.asked("GET", "poddisruptionbudgets")


async def test_a_standby_on_a_cordoned_node_is_replaced(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply_node("n1")
        await cluster.apply_pool(size=1)
        (first,) = await eventually(lambda: list(api.running()))
        await cluster.place(first, "n1")
        await cluster.stand_by(first)
        await cluster.change_node("n1", {"spec": {"unschedulable": True}})
        await eventually(lambda: [name for name in api.running() if name != first])


@contextlib.asynccontextmanager
async def two_operators(
    start_operator: StartOperator, at_once: bool
) -> AsyncIterator[tuple[Any, Callable[[], Any]]]:
    """The first one, and what ends it and returns its successor: a new one, or one that waited."""
    async with contextlib.AsyncExitStack() as first, contextlib.AsyncExitStack() as second:
        cluster = await first.enter_async_context(start_operator())
        waiting = await second.enter_async_context(start_operator()) if at_once else None

        async def succeed() -> Any:
            await first.aclose()
            return waiting or await second.enter_async_context(start_operator())

        yield cluster, succeed


def told(api: ApiServer) -> dict[str, Any]:
    """The only interruption in the status; empty: there is none."""
    found = api.model().get("status", {}).get("interruptions", [{}])
    assert len(found) == 1
    return dict(found[0])


@pytest.mark.parametrize("at_once", [False, True], ids=["restart", "leader change"])
async def test_an_operator_that_ends_in_the_middle_of_a_notice_loses_and_doubles_no_worker(
    api: ApiServer, start_operator: StartOperator, at_once: bool
):
    """The replacement is on its way: the successor waits for it, and counts from the notice."""
    async with two_operators(start_operator, at_once) as (cluster, succeed):
        await cluster.apply_node("n1")
        await cluster.apply(scaling={"minReplicas": 1, "maxReplicas": 1})
        async with Gateway(cluster.fleet_address).connected():
            first = await running_pod(api, cluster, "n1")
            await eventually(lambda: api.condition("Ready").get("status") == "True")
            await cluster.change_node("n1", {"spec": {"taints": [SPOT_ITN]}})
            (second,) = await eventually(lambda: [n for n in api.running() if n != first])
            before = await eventually(lambda: told(api))
        successor = await succeed()
        await eventually(lambda: successor.fleet_address in api.holder())
        async with Gateway(successor.fleet_address).connected() as gateway:
            await eventually(lambda: len(gateway.addresses()) == 1)
            assert set(api.running()) == {first, second}, "the last ready one stays"
            assert told(api) == before, "its end is where it was"
            await successor.start(second)
            await eventually(lambda: set(api.running()) == {second})
            await successor.finish(first)
            await eventually(lambda: api.condition("Reconciling").get("status") == "False")
    assert len(api.asked("POST", "pods")) == 2


@pytest.mark.parametrize("at_once", [False, True], ids=["restart", "leader change"])
async def test_an_operator_that_ends_in_the_middle_of_a_hand_over_is_followed_in_it(
    api: ApiServer, start_operator: StartOperator, at_once: bool
):
    """Streams run on the worker that goes: its successor still has them moved, then stops it."""
    async with two_operators(start_operator, at_once) as (cluster, succeed):
        await cluster.apply_node("n1")
        await cluster.apply(scaling={"minReplicas": 2, "maxReplicas": 2})
        async with Gateway(cluster.fleet_address).connected() as gateway:
            await eventually(lambda: len(api.running()) == 2)
            going, staying = sorted(api.running())
            await cluster.place(going, "n1")
            for name in (going, staying):
                await cluster.start(name)
            await eventually(lambda: len(gateway.addresses()) == 2)
            gateway.taken[f"default/{going}"] = 16
            await cluster.change_node("n1", {"status": {"conditions": [SHUTDOWN]}})
            await eventually(lambda: going in moving(gateway))
            await eventually(lambda: len(api.running()) == 3)
        successor = await succeed()
        await eventually(lambda: successor.fleet_address in api.holder())
        later = Gateway(successor.fleet_address, taken={f"default/{going}": 16})
        async with later.connected():
            await eventually(lambda: going in moving(later))
            assert len(later.addresses()) == 1, "nothing new goes there"
            assert len(api.running()) == 3
            assert going in api.running(), "it is not stopped under its streams"
            later.taken.clear()
            await eventually(lambda: going not in api.running())
            assert staying in api.running()
    assert len(api.asked("POST", "pods")) == 3


def moving(gateway: Gateway) -> set[str]:
    """Workers whose streams are to go on elsewhere."""
    route = gateway.route()
    return {w.worker_id.partition("/")[2] for w in route.workers if w.hand_over} if route else set()

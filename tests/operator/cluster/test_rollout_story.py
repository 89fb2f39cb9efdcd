"""A change rolls on a Kubernetes API: pods, history, and what is asked of the API server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import kmock
import pytest

from kube_cluster import ApiServer, Cluster, Gateway, eventually

StartOperator = Callable[..., Any]
CAUSE = "kubernetes.io/change-cause"


async def serve(cluster: Cluster, api: ApiServer, gateway: Gateway, pods: int) -> list[str]:
    """Starts every pod, and waits until so many are routable; their names."""
    await eventually(lambda: len(api.running()) >= pods)
    for name, pod in api.running().items():
        if "podIP" not in pod.get("status", {}):
            await cluster.start(name)
    await eventually(lambda: len(gateway.addresses()) == pods)
    await eventually(lambda: api.condition("Ready").get("reason") == "Serving")
    return sorted(api.running())


def history(api: ApiServer) -> dict[str, int]:
    return {name: kept["revision"] for name, kept in api.revisions().items()}


async def test_a_change_is_a_new_revision_and_the_old_pod_goes_when_it_is_idle(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply()
        async with Gateway(cluster.fleet_address).connected() as gateway:
            (old,) = await serve(cluster, api, gateway, 1)
            gateway.taken[f"default/{old}"] = 1
            await cluster.change({"engine": {"maxSequences": 8}})
            await eventually(lambda: len(api.running()) == 2)
            assert gateway.addresses(), "the old one serves meanwhile"
            (new,) = set(api.running()) - {old}
            address = await cluster.start(new)
            await eventually(lambda: gateway.addresses() == {address})
            await eventually(lambda: api.condition("Reconciling").get("reason") == "Rollout")
            assert old in api.running(), "a stream runs on it"
            gateway.taken.clear()
            await eventually(lambda: old not in api.running())
            await cluster.finish(old)
            await eventually(lambda: api.condition("Reconciling").get("status") == "False")

    old_revision, new_revision = old.split("-")[1], new.split("-")[1]
    assert history(api) == {f"smol-{old_revision}": 1, f"smol-{new_revision}": 2}
    kept = api.revisions()[f"smol-{old_revision}"]
    (owner,) = kept["metadata"]["ownerReferences"]
    assert owner["uid"] == api.model()["metadata"]["uid"]
    assert kept["metadata"]["labels"]["modelfleet.dev/deployment"] == "smol"
    assert kept["data"]["spec"]["template"]["spec"]["containers"][0]["name"] == "worker"
    assert api.model()["status"]["revision"] == new_revision


async def test_an_old_worker_that_dies_is_replaced_as_it_was_while_the_new_one_fails(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply()
        async with Gateway(cluster.fleet_address).connected() as gateway:
            (old,) = await serve(cluster, api, gateway, 1)
            before = api.pods()[old]
            await cluster.change({"engine": {"maxSequences": 8}})
            await eventually(lambda: len(api.running()) == 2)
            await eventually(lambda: api.condition("Ready").get("reason") == "ServingOldRevision")
    # Another operator, which never saw the old spec: all it has is the history.
    async with (
        start_operator() as cluster,
        Gateway(cluster.fleet_address).connected() as gateway,
    ):
        await eventually(gateway.route)
        uid = api.pods()[old]["metadata"]["uid"]
        await cluster.report(old, {"phase": "Failed"})
        await eventually(
            lambda: [
                pod
                for name, pod in api.running().items()
                if name.startswith(old[:-1]) and pod["metadata"]["uid"] != uid
            ]
        )
    (again,) = [pod for name, pod in api.running().items() if name.startswith(old[:-1])]
    assert again["spec"]["containers"] == before["spec"]["containers"]


async def test_the_old_yaml_rolls_back_and_gets_the_highest_number(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply(engine={"maxSequences": 4})
        async with Gateway(cluster.fleet_address).connected() as gateway:
            (old,) = await serve(cluster, api, gateway, 1)
            await cluster.change({"engine": {"maxSequences": 8}})
            await eventually(lambda: len(history(api)) == 2)
            await cluster.change({"engine": {"maxSequences": 4}})
            await eventually(lambda: max(history(api).values()) == 3)
            await eventually(lambda: sorted(api.running()) == [old])

    assert history(api)[f"smol-{old.split('-')[1]}"] == 3
    assert len([r for r in api.asked("POST", "pods") if old in r.body.decode()]) == 1


async def test_the_history_is_bounded_and_tells_the_cause(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply(rollout={"revisionHistoryLimit": 1})
        await eventually(lambda: history(api))
        for number in range(2, 6):
            await cluster.annotate({CAUSE: f"change {number}"})
            await cluster.change({"engine": {"maxSequences": number}})
            await eventually(lambda n=number: n in history(api).values())
        await eventually(lambda: len(history(api)) <= 3)

    latest = max(api.revisions().values(), key=lambda kept: kept["revision"])
    assert latest["metadata"]["annotations"][CAUSE] == "change 5"


async def test_without_the_right_to_keep_a_history_workers_start_all_the_same(
    api: ApiServer, start_operator: StartOperator
):
    api.refuse_revisions = "controllerrevisions is forbidden"
    async with start_operator() as cluster:
        await cluster.apply()
        await eventually(api.running)
        await eventually(lambda: "HistoryNotKept" in reasons(api))
    assert len(api.asked("POST", "controllerrevisions")) == 1, "it is not asked again and again"


async def test_a_lagging_watch_makes_no_second_request_for_the_same_pod(
    api: ApiServer, start_operator: StartOperator, monkeypatch: pytest.MonkeyPatch
):
    async with start_operator() as cluster:
        await cluster.apply(scaling={"minReplicas": 3})
        await eventually(lambda: len(api.running()) == 3)
        await cluster.create_pod({"metadata": {"name": "x", "labels": {}}})
    assert len(api.asked("POST", "pods")) == 3
    assert len(api.asked("POST", "controllerrevisions")) == 1


async def test_a_wrong_template_is_said_at_once_and_heals(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply(podTemplate={"spec": {"nodeSelektor": {"zone": "a"}}})
        await eventually(lambda: api.condition("Stalled").get("reason") == "InvalidSpec")
        assert "nodeSelektor" in api.condition("Stalled")["message"]
        assert not api.pods()
        await cluster.change({"podTemplate": {"spec": {"nodeSelektor": None}}})
        await eventually(api.running)


async def test_a_folder_of_the_node_in_a_template_needs_the_administrators_leave(
    api: ApiServer, start_operator: StartOperator
):
    volumes = [{"name": "disk", "hostPath": {"path": "/database"}}]
    async with start_operator(host_paths=("/data",)) as cluster:
        await cluster.apply(podTemplate={"spec": {"volumes": volumes}})
        await eventually(lambda: api.condition("Stalled").get("reason") == "HostPathNotAllowed")
        assert not api.pods()


def reasons(api: ApiServer) -> set[str]:
    """Of all events."""
    posted: list[kmock.Request] = api.asked("POST", "events")
    return {json.loads(request.body or b"{}")["reason"] for request in posted}

"""Warm pools on a Kubernetes API: filled, claimed by one write, refilled, and never robbed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from kube_cluster import ApiServer, Cluster, Gateway, eventually
from pool_workers import StandbyProcess, standby_processes

StartOperator = Callable[..., Any]
OWNED = "modelfleet.dev/deployment"


def standbys(api: ApiServer) -> list[str]:
    """Pods that no deployment has, by name."""
    return sorted(
        name
        for name, pod in api.running().items()
        if pod["metadata"]["labels"].get("modelfleet.dev/pool")
        and pod["metadata"]["labels"][OWNED] == ""
    )


def workers(api: ApiServer, deployment: str = "smol") -> list[str]:
    return sorted(
        name
        for name, pod in api.running().items()
        if pod["metadata"]["labels"].get(OWNED) == deployment
    )


def owner(api: ApiServer, pod: str) -> tuple[str, str]:
    (found,) = api.pods()[pod]["metadata"]["ownerReferences"]
    assert found["controller"] is True
    return found["kind"], found["name"]


def counts(api: ApiServer) -> dict[str, int]:
    status = api.pool().get("status", {})
    return {name: status.get(name, -1) for name in ("standby", "claimed", "hits", "misses")}


async def a_full_pool(
    api: ApiServer, cluster: Cluster, processes: list[StandbyProcess], **spec: Any
) -> list[str]:
    """The names of its pods; each process is one's."""
    await cluster.apply_pool(**{"size": len(processes), **spec})
    names = await eventually(
        lambda: found if len(found := standbys(api)) == len(processes) else None
    )
    for name, process in zip(names, processes, strict=True):
        await cluster.stand_by(name, f"{process.ip}:9000")
    await eventually(lambda: counts(api)["standby"] == len(processes))
    return list(names)


async def asleep(api: ApiServer, cluster: Cluster, **spec: Any) -> None:
    """A deployment of which no worker is wanted yet."""
    await cluster.apply(scaling={"mode": "External", "replicas": 0}, **spec)
    await eventually(lambda: api.condition("Reconciling").get("reason") == "AsDesired")


async def test_a_scale_up_claims_standbys_first_tells_them_the_model_and_refills(
    api: ApiServer, start_operator: StartOperator
):
    async with standby_processes(2) as processes, start_operator() as cluster:
        names = await a_full_pool(api, cluster, processes)
        assert owner(api, names[0]) == ("WarmPool", "pool")
        async with Gateway(cluster.fleet_address).connected():
            await asleep(api, cluster)
            await cluster.change({"scaling": {"replicas": 3}})
            await eventually(lambda: len(workers(api)) == 3)
            assert set(names) < set(workers(api)), "both, and one pod of its own"
            await eventually(lambda: api.model()["status"]["readyReplicas"] >= 2)
            await eventually(lambda: len(standbys(api)) == 2)
            await eventually(
                lambda: counts(api) == {"standby": 0, "claimed": 2, "hits": 2, "misses": 1}
            )
    assert [p.models for p in processes] == [["default/smol"]] * 2
    assert {p.told[0].source for p in processes} == {"hf://owner/name"}
    revision = api.model()["status"]["revision"]
    for name in names:
        labels = api.pods()[name]["metadata"]["labels"]
        assert owner(api, name) == ("ModelDeployment", "smol")
        assert labels["modelfleet.dev/revision"] == revision
        assert labels["modelfleet.dev/pool"] == "pool"
    ordinals = {api.pods()[n]["metadata"]["labels"]["modelfleet.dev/ordinal"] for n in workers(api)}
    assert ordinals == {"0", "1", "2"}
    claims = [
        json.loads(r.body)
        for r in api.asked("PATCH", "pods")
        if "ownerReferences" in json.loads(r.body)["metadata"]
    ]
    assert all(claim["metadata"]["resourceVersion"] for claim in claims), "one write, or none"
    reasons = [json.loads(r.body)["reason"] for r in api.asked("POST", "events")]
    assert reasons.count("WorkerClaimed") == 2


async def test_a_standby_that_is_dead_when_it_is_claimed_becomes_a_pod(
    api: ApiServer, start_operator: StartOperator
):
    async with standby_processes(1) as processes, start_operator() as cluster:
        (name,) = await a_full_pool(api, cluster, processes)
        processes[0].refusal = "killed meanwhile"
        await asleep(api, cluster)
        await cluster.change({"scaling": {"replicas": 1}})
        (made,) = await eventually(lambda: [n for n in workers(api) if n != name])
        assert made.startswith("smol-")
        await eventually(lambda: "deletionTimestamp" in api.pods()[name]["metadata"])


async def test_a_claimed_worker_that_is_killed_is_replaced(
    api: ApiServer, start_operator: StartOperator
):
    async with standby_processes(1) as processes, start_operator() as cluster:
        (name,) = await a_full_pool(api, cluster, processes)
        await asleep(api, cluster)
        await cluster.change({"scaling": {"replicas": 1}})
        await eventually(lambda: workers(api) == [name])
        killed = {"reason": "Error", "exitCode": 137}
        ended = [{"name": "worker", "state": {"terminated": killed}}]
        await cluster.report(name, {"phase": "Failed", "containerStatuses": ended})
        (made,) = await eventually(lambda: [n for n in workers(api) if n != name])
        assert made.startswith("smol-")


async def test_an_operator_that_ends_in_the_middle_of_a_claim_leaves_it_to_its_successor(
    api: ApiServer, start_operator: StartOperator
):
    """The pod is the deployment's, and nobody told it which model: it says that it has none."""
    async with standby_processes(1) as processes:
        async with start_operator() as cluster:
            (name,) = await a_full_pool(api, cluster, processes)
            await asleep(api, cluster)
        revision, uid = api.model()["status"]["revision"], api.model()["metadata"]["uid"]
        await cluster.label(name, claimed_labels(revision))
        await cluster.own(name, "ModelDeployment", "smol", uid)
        await cluster.change({"scaling": {"replicas": 1}})
        async with start_operator() as successor:
            gateway = Gateway(successor.fleet_address, standing_by={f"default/{name}"})
            async with gateway.connected():
                await eventually(lambda: processes[0].models)
                gateway.standing_by.clear()
                await eventually(lambda: api.condition("Ready").get("reason") == "Serving")
                assert workers(api) == [name], "it was adopted, and none was doubled"
                await eventually(lambda: len(standbys(api)) == 1)


def claimed_labels(revision: str) -> dict[str, str | None]:
    return {
        OWNED: "smol",
        "modelfleet.dev/revision": revision,
        "modelfleet.dev/ordinal": "0",
        "modelfleet.dev/claimed-at": str(int(time.time())),
    }


async def test_a_pool_that_is_deleted_takes_its_standbys_and_leaves_claimed_workers(
    api: ApiServer, start_operator: StartOperator
):
    async with standby_processes(2) as processes, start_operator() as cluster:
        await a_full_pool(api, cluster, processes)
        async with Gateway(cluster.fleet_address).connected():
            await asleep(api, cluster)
            await cluster.change({"scaling": {"replicas": 1}})
            (name,) = await eventually(lambda: workers(api))
            await eventually(lambda: api.condition("Ready").get("reason") == "Serving")
            await cluster.delete_pool()
            await eventually(lambda: not standbys(api))
            assert workers(api) == [name]
            await cluster.change({"scaling": {"replicas": 2}})
            await eventually(lambda: len(workers(api)) == 2)
    assert not [r for r in api.asked("DELETE", "pods") if r.name == name]


async def test_who_needs_other_rights_claims_none(api: ApiServer, start_operator: StartOperator):
    async with standby_processes(1) as processes, start_operator() as cluster:
        (name,) = await a_full_pool(api, cluster, processes)
        await cluster.apply(podTemplate={"spec": {"serviceAccountName": "me"}})
        await cluster.apply("alone", coldStart={"warmPool": "None"})
        (made,) = await eventually(lambda: workers(api))
        await eventually(lambda: workers(api, "alone"))
        assert made != name
        assert processes[0].models == []
        assert standbys(api) == [name]
        assert counts(api)["misses"] == 0, "no pool could have had one for it"


async def test_a_pool_fetches_models_ahead_and_new_standbys_follow_when_they_change(
    api: ApiServer, start_operator: StartOperator
):
    def fetched() -> list[list[str]]:
        args = [api.pods()[name]["spec"]["containers"][0]["args"] for name in standbys(api)]
        return [[flag for flag in each if flag.startswith("--fetch")] for each in args]

    async with start_operator() as cluster:
        await cluster.apply(scaling={"mode": "External", "replicas": 0})
        await cluster.apply_pool(models=["smol", "later"])
        await eventually(lambda: fetched() == [["--fetch=hf://owner/name"]])
        await eventually(lambda: "names later" in str(api.pool().get("status", {})))
        later = {"source": "s3://bucket/later", "revision": None}
        await cluster.apply("later", scaling={"mode": "External", "replicas": 0}, model=later)
        both = ["--fetch=hf://owner/name", "--fetch=s3://bucket/later"]
        await eventually(lambda: fetched() == [both])
        await eventually(lambda: "names later" not in str(api.pool()["status"]))


async def test_pods_of_another_namespace_are_not_claimed(
    api: ApiServer, start_operator: StartOperator
):
    async with standby_processes(1) as processes, start_operator() as cluster:
        (name,) = await a_full_pool(api, cluster, processes)
        await cluster.apply(namespace="other")
        (made,) = await eventually(lambda: workers(api))
        assert made != name
        assert api.pods()[name]["metadata"]["labels"][OWNED] == ""


async def test_a_pool_of_a_class_asks_for_it_and_says_what_is_wrong(
    api: ApiServer, start_operator: StartOperator
):
    def stalled() -> str:
        found = api.pool().get("status", {}).get("conditions", [])
        return next((c["message"] for c in found if c["type"] == "Stalled"), "")

    async with start_operator() as cluster:
        await cluster.apply_pool(accelerator="h100", size=3, maxHourlyCost="5")
        await eventually(lambda: "there is no AcceleratorClass h100" in stalled())
        assert not standbys(api)
        await cluster.apply_class(
            "h100",
            resource={"name": "nvidia.com/gpu"},
            nodeSelector={"gpu": "h100"},
            price={"onDemand": "2.50"},
        )
        await eventually(lambda: "2 are kept" in stalled())
        names = await eventually(lambda: found if len(found := standbys(api)) == 2 else None)
        spec = api.pods()[names[0]]["spec"]
        assert spec["nodeSelector"] == {"gpu": "h100"}
        assert spec["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1"}
        await cluster.change_pool({"maxHourlyCost": None, "size": 1})
        await eventually(lambda: len(standbys(api)) == 1 and not stalled())
        await eventually(lambda: api.pool()["status"]["hourlyCost"] == "0.00")

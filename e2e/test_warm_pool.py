"""Warm pools on real nodes: pods that stand by are claimed, by one each, and no request is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from installation import MODELS, TORCH, Installation
from kube import Kube, Object, eventually, model_deployment
from processes import kill_worker, processes
from traffic import Traffic

OWNED = "modelfleet.dev/deployment"
POOLED = "modelfleet.dev/pool=pool"


@pytest.fixture(scope="module", autouse=True)
def paced(installation: Installation) -> Iterator[None]:
    """All workers only take time: then none needs a podTemplate, with which none would fit."""
    worker = {"hostPaths": [str(TORCH), str(MODELS)], "device": "paced"}
    installation.install(changes={"worker": worker})
    yield
    installation.install()


def deployment(name: str = "model", **spec: Any) -> Object:
    return model_deployment(name, **{"podTemplate": {}, **spec})


def pool(size: int, **spec: Any) -> Object:
    return {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "WarmPool",
        "metadata": {"name": "pool"},
        "spec": {"size": size, **spec},
    }


def pods(kube: Kube) -> list[Object]:
    """Those that came from the pool and are not being deleted."""
    found = kube.items("pods", POOLED)
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def standbys(kube: Kube) -> dict[str, Object]:
    there = [pod for pod in pods(kube) if not pod["metadata"]["labels"][OWNED]]
    return {pod["metadata"]["name"]: pod for pod in there}


def status(kube: Kube) -> Object:
    found: Object = kube.get("warmpool", "pool").get("status", {})
    return found


def uids(kube: Kube) -> set[str]:
    return {worker["metadata"]["uid"] for worker in kube.workers("model")}


def fill(kube: Kube, size: int) -> set[str]:
    kube.apply(pool(size))
    kube.wait("Ready", "warmpool/pool", 90)
    assert status(kube)["standby"] == size
    return set(standbys(kube))


def test_wakes_claim_standbys_under_traffic_and_a_pool_that_goes_takes_no_claimed_worker(
    kube: Kube, gateway: str
):
    there = fill(kube, 2)
    kube.apply(deployment(scaling={"mode": "External", "replicas": 1}))
    kube.wait("Ready", "modeldeployment/model")
    (first,) = kube.workers("model")
    assert first["metadata"]["name"] in there
    assert [o["kind"] for o in first["metadata"]["ownerReferences"]] == ["ModelDeployment"]
    with Traffic(gateway, f"{kube.namespace}/model") as traffic:
        traffic.wait_for_answers(4)
        kube("scale", "modeldeployment/model", "--replicas=3")
        eventually("three are ready", lambda: kube.model("model")["status"]["readyReplicas"] == 3)
        kube("scale", "modeldeployment/model", "--replicas=1")
        eventually("one is left", lambda: len(kube.workers("model")) == 1, 90)
        kube("delete", "warmpool", "pool")
        eventually("no standby is left", lambda: not standbys(kube), 90)
        traffic.wait_for_answers(8)
        kube("scale", "modeldeployment/model", "--replicas=2")
        eventually("two are ready", lambda: kube.model("model")["status"]["readyReplicas"] == 2)
        traffic.wait_for_answers(4)
    traffic.check()


def test_a_race_of_many_gives_each_standby_to_one_and_a_pod_to_the_others(kube: Kube):
    there = fill(kube, 4)
    names = [f"m{number}" for number in range(10)]
    kube.apply(*(deployment(name, scaling={"minReplicas": 1}) for name in names))
    for name in names:
        kube.wait("Ready", f"modeldeployment/{name}", 120)
    found = kube.items("pods", f"{OWNED} in ({','.join(names)})")
    owners = Counter(pod["metadata"]["labels"][OWNED] for pod in found)
    assert owners == Counter(names)
    taken = [pod for pod in pods(kube) if pod["metadata"]["name"] in there]
    assert len(taken) == 4
    for pod in taken:
        (owner,) = pod["metadata"]["ownerReferences"]
        assert owner["name"] == pod["metadata"]["labels"][OWNED]
    eventually("it is full again", lambda: status(kube)["standby"] == 4, 90)
    assert status(kube)["hits"] >= 4


def test_leaders_that_are_killed_while_workers_are_claimed_lose_and_double_none(
    kube: Kube, gateway: str, installation: Installation
):
    fill(kube, 2)
    kube.apply(deployment(scaling={"mode": "External", "replicas": 1}))
    kube.wait("Ready", "modeldeployment/model")
    with Traffic(gateway, f"{kube.namespace}/model") as traffic:
        for _ in range(2):
            eventually("it is full", lambda: status(kube)["standby"] == 2, 90)
            kube("scale", "modeldeployment/model", "--replicas=3")
            for leader in processes(installation.leader()["metadata"]["uid"], "operator"):
                leader.kill()
            eventually(
                "three are ready", lambda: kube.model("model")["status"]["readyReplicas"] == 3, 90
            )
            assert len(kube.workers("model")) == 3
            kube("scale", "modeldeployment/model", "--replicas=1")
            eventually("one is left", lambda: len(kube.workers("model")) == 1, 90)
        traffic.wait_for_answers(4)
    traffic.check()


def test_a_claimed_worker_that_is_killed_becomes_another_one(kube: Kube, gateway: str):
    fill(kube, 1)
    kube.apply(deployment(scaling={"mode": "External", "replicas": 1}))
    kube.wait("Ready", "modeldeployment/model")
    with Traffic(gateway, f"{kube.namespace}/model") as traffic:
        traffic.wait_for_answers(4)
        (first,) = kube.workers("model")
        kill_worker(first)
        eventually(
            "another one serves",
            lambda: (
                first["metadata"]["uid"] not in uids(kube)
                and kube.model("model")["status"].get("readyReplicas") == 1
            ),
        )
        traffic.wait_for_answers(4)
    traffic.check()

"""EvictionRequests (lifecycle.k8s.io) on an API that has them: answered as a notice is."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from kube_cluster import EVICTIONS, EVICTOR, ApiServer, Cluster, Gateway, eventually

StartOperator = Callable[..., Any]


@pytest.fixture
def evictions(api: ApiServer) -> None:
    api.resources[EVICTIONS] = {
        "namespaced": True,
        "kind": "Eviction",
        "singular": "eviction",
        "verbs": {"get", "list", "watch", "create", "patch", "delete"},
        "shortnames": set(),
        "categories": set(),
        "subresources": {"status"},
    }


def answers(api: ApiServer, pod: str) -> dict[str, dict[str, Any]]:
    """What each responder says, by its name."""
    return {r["name"]: r for r in api.eviction(pod)["status"]["responders"]}


@contextlib.asynccontextmanager
async def serving(api: ApiServer, cluster: Cluster) -> AsyncIterator[str]:
    """Its only worker, which a gateway reaches."""
    async with Gateway(cluster.fleet_address).connected() as gateway:
        (first,) = await eventually(lambda: list(api.running()))
        await cluster.start(first)
        await eventually(lambda: len(gateway.addresses()) == 1)
        yield first


@pytest.mark.usefixtures("evictions")
async def test_a_worker_that_is_asked_to_go_is_replaced_first_and_the_request_is_answered(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply()
        async with serving(api, cluster) as first:
            await cluster.ask_to_go(first)
            (second,) = await eventually(lambda: [n for n in api.running() if n != first])
            assert first in api.running(), "the last ready one stays until another is"
            await eventually(
                lambda: "heartbeatTime" in answers(api, first)["modelfleet.dev/operator"]
            )
            assert answers(api, first)[EVICTOR] == {"name": EVICTOR}, "others speak for themselves"
            (told,) = api.model()["status"]["interruptions"]
            assert (told["kind"], told["source"]) == ("Eviction", "Eviction lifecycle.k8s.io")
            await cluster.start(second)
            await eventually(lambda: first not in api.running())
            assert second in api.running()
    assert len(api.asked("PATCH", "evictions", "status")) == 1, "no heartbeat within 20 s"


@pytest.mark.usefixtures("evictions")
async def test_a_request_that_is_withdrawn_leaves_the_worker(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply(scaling={"minReplicas": 1, "maxReplicas": 1})
        async with serving(api, cluster) as first:
            await cluster.ask_to_go(first)
            (second,) = await eventually(lambda: [n for n in api.running() if n != first])
            await cluster.withdraw(first)
            await eventually(lambda: "interruptions" not in api.model()["status"])
            await eventually(lambda: second not in api.running())
            assert first in api.running()


@pytest.mark.usefixtures("evictions")
async def test_it_is_answered_only_when_it_is_our_turn(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply()
        async with serving(api, cluster) as first:
            await cluster.ask_to_go(first, state="Inactive")
            await cluster.change({"scaling": {"minReplicas": 2}})
            await eventually(lambda: len(api.running()) == 2)
            assert "interruptions" not in api.model()["status"]
    assert not api.asked("PATCH", "evictions", "status")


async def test_without_that_api_pods_name_no_responder(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply()
        (pod,) = (await eventually(api.running)).values()
    assert "evictionResponders" not in pod["spec"]


@pytest.mark.usefixtures("evictions")
async def test_without_the_right_to_it_neither(api: ApiServer, start_operator: StartOperator):
    api.refuse_watching = frozenset({"evictions"})
    async with start_operator() as cluster:
        await cluster.apply()
        (pod,) = (await eventually(api.running)).values()
    assert "evictionResponders" not in pod["spec"]

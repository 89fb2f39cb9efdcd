"""What was deleted while no watch ran is found by comparing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from kubernetes.aio import client

from kube_cluster import CLASSES, MODELS, ApiServer, Cluster, eventually
from modelfleet_operator.cluster.sweep import Sweeper
from modelfleet_operator.errors import WatchLostError

StartOperator = Callable[..., Any]


@pytest.fixture
async def api_client(api: ApiServer) -> AsyncIterator[client.ApiClient]:
    configuration = client.Configuration(host=str(api.url).rstrip("/"))
    async with client.ApiClient(configuration) as made:
        yield made


@pytest.mark.parametrize("namespaces", [(), ("default",)], ids=["everywhere", "one namespace"])
async def test_finds_what_is_cached_and_not_there(
    api: ApiServer, api_client: client.ApiClient, namespaces: tuple[str, ...]
):
    await Cluster(api).apply()
    there = api.model()["metadata"]["uid"]
    missed: list[tuple[str, str]] = []
    cached = {there: "default/smol", "uid-of-a-pod": "default/smol"}
    sweeper = Sweeper(api_client, namespaces, lambda: cached, lambda *said: missed.append(said))
    assert await sweeper.sweep() == set()
    assert missed == [("uid-of-a-pod", "default/smol")]
    asked = [request for request in api.seen if request.method.value == "GET"]
    assert asked
    assert all("PartialObjectMetadataList" in request.headers["Accept"] for request in asked)


async def test_a_watch_that_sees_nothing_is_given_up(api: ApiServer, api_client: client.ApiClient):
    sweeper = Sweeper(api_client, (), dict, lambda *_: None, lag=0)
    await sweeper.compare()
    await Cluster(api).apply()
    with pytest.raises(WatchLostError, match="1 ModelDeployments"):
        await sweeper.compare()


async def test_an_api_server_that_is_away_says_nothing_about_the_watches(api: ApiServer):
    configuration = client.Configuration(host="http://127.0.0.1:1")
    async with client.ApiClient(configuration) as unreachable:
        await Sweeper(unreachable, (), dict, lambda *_: None, lag=0).compare()


async def test_an_operator_waits_for_its_crds(api: ApiServer, start_operator: StartOperator):
    installed = {plural: api.resources[plural] for plural in (MODELS, CLASSES)}
    for plural in installed:
        del api.resources[plural]

    async def install() -> None:
        await asyncio.sleep(0.5)
        for plural, resource in installed.items():
            api.resources[plural] = resource

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(install())
        async with start_operator() as cluster:
            await cluster.apply()
            await eventually(api.running)


async def test_a_pod_whose_end_no_watch_told_is_replaced(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply()
        (name,) = await eventually(api.running)
        uid = api.pods()[name]["metadata"]["uid"]
        await eventually(lambda: api.model().get("status", {}).get("replicas") == 1)
        await api.lose("pods", name)
        (successor,) = await eventually(api.running)
        assert api.pods()[successor]["metadata"]["uid"] != uid

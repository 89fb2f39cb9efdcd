"""An operator that runs in the test's own event loop, against kmock's API server."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import kmock
import pytest
from kubernetes.aio import client

from kube_cluster import (
    BUDGETS,
    CLAIM_TEMPLATES,
    CLASSES,
    EVENTS,
    LEASES,
    MODELS,
    NODES,
    PODS,
    POLICIES,
    POOLS,
    REVISIONS,
    SECRETS,
    ApiServer,
    Cluster,
)
from modelfleet_operator.cluster.api import ClusterApi
from modelfleet_operator.cluster.options import OperatorOptions
from modelfleet_operator.cluster.pods import PodSettings
from modelfleet_operator.cluster.run import operate
from modelfleet_operator.decisions.leadership import Pace


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server, kmock.Server(server):
        server.resources[MODELS] = resource("ModelDeployment", {"status", "scale"})
        server.resources[POOLS] = resource("WarmPool", {"status"})
        server.resources[PODS] = resource("Pod", {"status"})
        server.resources[REVISIONS] = resource("ControllerRevision", set())
        server.resources[EVENTS] = resource("Event", set())
        server.resources[LEASES] = resource("Lease", set())
        server.resources[CLAIM_TEMPLATES] = resource("ResourceClaimTemplate", set())
        server.resources[POLICIES] = resource("NetworkPolicy", set())
        server.resources[SECRETS] = resource("Secret", set())
        server.resources[BUDGETS] = resource("PodDisruptionBudget", {"status"})
        for plural, kind in [
            (CLASSES, "AcceleratorClass"),
            (NODES, "Node"),
            ("v1/namespaces", "Namespace"),
            ("apiextensions.k8s.io/v1/customresourcedefinitions", "CustomResourceDefinition"),
        ]:
            server.resources[plural] = {**resource(kind, set()), "namespaced": False}
        yield server


@pytest.fixture
async def kubernetes(api: ApiServer) -> AsyncIterator[ClusterApi]:
    configuration = client.Configuration(host=str(api.url).rstrip("/"))
    async with client.ApiClient(configuration) as api_client:
        yield ClusterApi(api_client)


def resource(kind: str, subresources: set[str]) -> Any:
    return {
        "namespaced": True,
        "kind": kind,
        "singular": kind.lower(),
        "verbs": {"get", "list", "watch", "create", "patch", "delete"},
        "shortnames": set(),
        "categories": set(),
        "subresources": subresources,
    }


@pytest.fixture
def kubeconfig(api: ApiServer, tmp_path: Path) -> Path:
    """Leads to the test's API server."""
    path = tmp_path / "kubeconfig"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "clusters": [{"name": "test", "cluster": {"server": str(api.url).rstrip("/")}}],
                "users": [{"name": "test", "user": {"token": "secret"}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            }
        )
    )
    return path


@pytest.fixture
def start_operator(api: ApiServer, kubeconfig: Path) -> Callable[..., Any]:
    """`async with start_operator() as cluster`: an operator of its own, stopped at the end."""

    @contextlib.asynccontextmanager
    async def start(pace: Pace | None = None, **pods: Any) -> AsyncIterator[Cluster]:
        options = OperatorOptions(
            fleet_listen="127.0.0.1:0",
            pods=PodSettings(**{"image": "worker:1", **pods}),
            kubeconfig=kubeconfig,
            lease_pace=pace or Pace(),
        )
        here = asyncio.get_running_loop()
        address: asyncio.Future[str] = here.create_future()
        stops: list[Callable[[], object]] = []

        async def run() -> None:
            stop = asyncio.Event()
            loop = asyncio.get_running_loop()
            stops.append(lambda: loop.call_soon_threadsafe(stop.set))
            await operate(
                options, stop, lambda found: here.call_soon_threadsafe(address.set_result, found)
            )

        # A loop of its own: at its end kopf waits for all tasks that were born after it, and
        # those of the API server would be among them.
        running = asyncio.create_task(asyncio.to_thread(asyncio.run, run()))
        await asyncio.wait([address, running], timeout=10, return_when="FIRST_COMPLETED")
        if running.done():
            await running
        try:
            yield Cluster(api, fleet_address=address.result(), has_ended=running.done)
        finally:
            with contextlib.suppress(RuntimeError):  # it has ended by itself, and its loop with it
                stops[0]()
            await asyncio.wait_for(running, 15)

    return start

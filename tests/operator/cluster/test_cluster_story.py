"""The operator's story on a Kubernetes API, told by what it asks of the API server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from kube_cluster import ApiServer, Cluster, Gateway, eventually

StartOperator = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_trace_on_our_objects(api: ApiServer):
    """Whatever a test does: no finalizer, no annotation on what users made, only its status."""
    yield
    for request in api.seen:
        if request.resource is None or request.method.value == "GET":
            continue
        body = json.loads(request.body or b"{}")
        ours = {"annotations"} if request.resource.plural in ("leases", "pods") else set()
        assert not {"finalizers", "annotations"} - ours & body.get("metadata", {}).keys()
        if request.resource.plural == "modeldeployments":
            assert request.subresource == "status"
            assert body.keys() == {"apiVersion", "kind", "metadata", "status"}


async def a_ready_worker(api: ApiServer, cluster: Cluster, gateway: Gateway) -> str:
    """The name of the only pod, once the gateway may send it requests and status says so."""
    (name,) = await eventually(api.running)
    address = await cluster.start(name)
    await eventually(lambda: gateway.addresses() == {address})
    await eventually(lambda: api.condition("Ready").get("reason") == "Serving")
    return name


def worker_events(api: ApiServer) -> list[str]:
    """Reasons of the Events about single workers."""
    reasons = [json.loads(r.body)["reason"] for r in api.asked("POST", "events")]
    return [reason for reason in reasons if reason.startswith("Worker")]


async def test_a_deployment_becomes_a_pod_with_its_owner_and_labels(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply()
        ((name, _),) = (await eventually(api.pods)).items()

    # Caches lag, so a create may be asked for again; it names the same pod (409 is success).
    posted, *again = [json.loads(request.body) for request in api.asked("POST", "pods")]
    assert all(other == posted for other in again)
    revision = posted["metadata"]["labels"]["modelfleet.dev/revision"]
    assert name == f"smol-{revision}-0"
    assert posted["metadata"]["labels"]["modelfleet.dev/deployment"] == "smol"
    (owner,) = posted["metadata"]["ownerReferences"]
    assert owner["uid"] == api.model()["metadata"]["uid"]
    assert owner["controller"] is True


async def test_a_running_pod_is_routed_to_and_the_status_says_so(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply(model={"source": "hf://owner/name", "servedNames": ["a", "b"]})
        async with Gateway(cluster.fleet_address).connected() as gateway:
            await a_ready_worker(api, cluster, gateway)
            route = gateway.route()
            assert route is not None
            assert list(route.served_names) == ["a", "b"]
            status, ready = api.model()["status"], api.condition("Ready")

    assert (status["replicas"], status["readyReplicas"]) == (1, 1)
    assert status["selector"] == "modelfleet.dev/deployment=smol"
    assert ready["status"] == "True"
    for request in api.asked("PATCH", "modeldeployments", "status"):
        headers = {name.lower(): value for name, value in request.headers.items()}
        assert headers["content-type"] == "application/apply-patch+yaml"
        assert request.params["fieldManager"] == "modelfleet"
        assert request.params["force"] == "true"


async def test_demand_adds_pods_up_to_the_maximum(api: ApiServer, start_operator: StartOperator):
    async with start_operator() as cluster:
        await cluster.apply(scaling={"maxReplicas": 3, "targetQueueDepth": 2})
        async with Gateway(cluster.fleet_address).connected() as gateway:
            await a_ready_worker(api, cluster, gateway)
            gateway.waiting, gateway.last_request = 99, time.time()
            await eventually(lambda: len(api.running()) == 3)
            await eventually(
                lambda: any(
                    "99 waiting" in step["reason"] and "maxReplicas" in step["reason"]
                    for step in api.model()["status"].get("scalingHistory", [])
                )
            )

    assert {p["metadata"]["labels"]["modelfleet.dev/ordinal"] for p in api.pods().values()} == {
        "0",
        "1",
        "2",
    }


async def test_an_idle_model_drains_and_is_deleted_by_uid_and_wakes_on_demand(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply(scaling={"minReplicas": 0, "idleTimeout": "500ms"})
        async with Gateway(cluster.fleet_address).connected() as gateway:
            (name,) = await eventually(api.running)
            uid = api.pods()[name]["metadata"]["uid"]
            await cluster.start(name)

            await eventually(lambda: "deletionTimestamp" in api.pods()[name]["metadata"])
            assert gateway.addresses() == set()
            await cluster.finish(name)
            await eventually(lambda: api.condition("Ready").get("reason") == "Asleep")
            assert api.condition("Ready")["status"] == "True"
            assert not api.pods()

            gateway.waiting, gateway.last_request = 1, time.time()
            await eventually(api.running)
            await eventually(lambda: len(worker_events(api)) == 3)

    (unroute,) = api.asked("PATCH", "pods")
    patch = json.loads(unroute.body)
    assert patch["metadata"]["uid"] == uid
    assert "modelfleet.dev/unrouted-at" in patch["metadata"]["labels"]
    (delete,) = api.asked("DELETE", "pods")
    assert json.loads(delete.body)["preconditions"] == {"uid": uid}
    assert worker_events(api) == ["WorkerStarted", "WorkerStopped", "WorkerStarted"]


async def test_a_pod_that_a_person_deleted_is_replaced(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply()
        async with Gateway(cluster.fleet_address).connected() as gateway:
            name = await a_ready_worker(api, cluster, gateway)
            await cluster.delete_pod(name)
            (successor,) = await eventually(api.running)
            await cluster.finish(name)

    assert successor.endswith("-1")  # the terminating pod still has ordinal 0


async def test_a_pod_that_exited_is_removed_replaced_and_its_last_words_kept(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply()
        (name,) = await eventually(api.running)
        uid = api.pods()[name]["metadata"]["uid"]
        ended = {"reason": "Error", "exitCode": 1, "message": "loading\nno safetensors in /model"}
        await cluster.report(
            name,
            {"phase": "Failed", "containerStatuses": [{"state": {"terminated": ended}}]},
        )
        await eventually(lambda: [p for p in api.pods().values() if p["metadata"]["uid"] != uid])
        last_words = "Error, exit code 1: no safetensors in /model"
        await eventually(
            lambda: any(
                last_words in json.loads(r.body)["note"] for r in api.asked("POST", "events")
            )
        )


async def test_a_wrong_spec_stalls_with_the_field_and_starts_nothing(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply(scaling={"minReplicas": "two"})
        await eventually(lambda: api.condition("Stalled").get("status") == "True")
        assert "spec.scaling.minReplicas" in api.condition("Stalled")["message"]
        assert not api.pods()

        await cluster.change({"scaling": {"minReplicas": 2}})
        await eventually(lambda: len(api.running()) == 2)
        await eventually(lambda: api.condition("Stalled").get("status") == "False")


async def test_a_wrong_edit_leaves_what_runs_alone(api: ApiServer, start_operator: StartOperator):
    async with start_operator() as cluster:
        await cluster.apply(scaling={"minReplicas": 2})
        before = set(await eventually(lambda: len(api.running()) == 2 and api.running()))
        await cluster.change({"scaling": {"minReplicas": -1}})
        await eventually(lambda: api.condition("Stalled").get("status") == "True")
        assert set(api.running()) == before
        await cluster.change({"scaling": {"minReplicas": 3}})
        await eventually(lambda: len(api.running()) == 3)

    assert before < set(api.running())
    assert not api.asked("DELETE", "pods")


async def test_a_folder_on_the_node_needs_the_operators_leave(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply(model={"source": "file:///models/smol"})
        await eventually(lambda: "--host-path" in api.condition("Stalled").get("message", ""))
        assert not api.pods()


async def test_deleting_the_object_ends_its_reconciler(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply()
        async with Gateway(cluster.fleet_address).connected() as gateway:
            name = await a_ready_worker(api, cluster, gateway)
            await cluster.delete()
            await eventually(lambda: gateway.route() is None)
            # The garbage collector ends the pods; no others are started in their place.
            await cluster.delete_pod(name)
            await cluster.finish(name)
            await cluster.apply(name="other")
            await eventually(lambda: gateway.route("default/other"))

    assert [p for p in api.pods() if p.startswith("smol-")] == []


async def test_a_restarted_operator_goes_on_where_the_last_one_ended(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply(scaling={"maxReplicas": 2, "targetQueueDepth": 2})
        async with Gateway(cluster.fleet_address).connected() as gateway:
            await a_ready_worker(api, cluster, gateway)
            gateway.waiting, gateway.last_request = 4, time.time()
            pods = await eventually(lambda: len(api.running()) == 2 and api.running())
            await eventually(lambda: api.model()["status"].get("scalingHistory"))
    history = api.model()["status"]["scalingHistory"]

    async with start_operator() as cluster:
        # Before any gateway speaks: silence is not zero load, and what was asked for stays.
        await cluster.apply(name="other")
        await eventually(lambda: len(api.running()) == 3)
        async with Gateway(cluster.fleet_address).connected() as gateway:
            await eventually(lambda: gateway.route("default/other"))
            await eventually(lambda: gateway.route("default/smol"))

    assert set(pods) < set(api.running())
    assert api.model()["status"]["scalingHistory"][: len(history)] == history
    assert not api.asked("DELETE", "pods")

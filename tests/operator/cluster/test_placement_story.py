"""Accelerator classes and what is wrong with pods, told on a Kubernetes API."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from class_pods import PLACED, the_pod, unschedulable
from kube_cluster import ApiServer, Cluster, eventually

StartOperator = Callable[..., Any]


def waiting(reason: str, message: str) -> dict[str, Any]:
    """A pod on a node whose worker does not start."""
    container = {
        "name": "worker",
        "image": "worker:1",
        "state": {"waiting": {"reason": reason, "message": message}},
    }
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": PLACED}
        for kind in ("PodScheduled", "PodReadyToStartContainers")
    ]
    return {
        "phase": "Pending",
        "startTime": PLACED,
        "conditions": conditions,
        "containerStatuses": [container],
    }


def event_notes(api: ApiServer, reason: str) -> list[str]:
    bodies = [json.loads(request.body) for request in api.asked("POST", "events")]
    return [body["note"] for body in bodies if body["reason"] == reason]


async def test_a_pod_is_made_for_the_best_class(api: ApiServer, start_operator: StartOperator):
    async with start_operator() as cluster:
        await cluster.apply_class(
            "h100",
            resource={"name": "nvidia.com/gpu", "count": 2},
            nodeSelector={"gpu": "h100"},
        )
        await cluster.apply(placement={"accelerators": ["h100"]})
        name = await the_pod(api, "h100")
        spec = api.pods()[name]["spec"]
        await eventually(lambda: event_notes(api, "WorkerStarted"))

    assert spec["nodeSelector"] == {"gpu": "h100"}
    assert spec["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert "on h100" in event_notes(api, "WorkerStarted")[0]


async def test_a_class_without_room_is_followed_by_the_next(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply_class("h100")
        await cluster.apply_class("a10")
        await cluster.apply(placement={"accelerators": ["h100", "a10"]})
        first = await the_pod(api, "h100")
        await cluster.report(first, unschedulable("0/2 nodes: 2 Insufficient nvidia.com/gpu."))
        second = await the_pod(api, "a10")
        await eventually(lambda: api.condition("PlacementLimited").get("status") == "True")

    assert first not in api.pods()
    assert api.pods()[second]["metadata"]["labels"]["modelfleet.dev/accelerator"] == "a10"
    limited = api.condition("PlacementLimited")
    assert limited["reason"] == "AcceleratorShort"
    assert "2 Insufficient nvidia.com/gpu" in limited["message"]
    assert any("a10 is tried" in note for note in event_notes(api, "WorkerStopped"))


async def test_a_class_that_is_created_later_heals(api: ApiServer, start_operator: StartOperator):
    async with start_operator() as cluster:
        await cluster.apply(placement={"accelerators": ["h100"]})
        stalled = await eventually(
            lambda: api.condition("Stalled").get("status") == "True" and api.condition("Stalled")
        )
        assert stalled["reason"] == "AcceleratorClassMissing"
        assert "h100" in stalled["message"]
        assert not api.pods()
        await cluster.apply_class("h100")
        await the_pod(api, "h100")
        await eventually(lambda: api.condition("Stalled").get("status") == "False")


async def test_what_is_wrong_with_a_pod_is_the_condition_at_once_and_an_event_once(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply()
        (name,) = await eventually(api.running)
        for attempt in range(3):
            reason = "ErrImagePull" if attempt % 2 else "ImagePullBackOff"
            await cluster.report(name, waiting(reason, f"not found, attempt {attempt}"))
        stalled = await eventually(
            lambda: api.condition("Stalled").get("status") == "True" and api.condition("Stalled")
        )
        assert stalled["reason"] == "ImagePull"
        await cluster.report(name, {"phase": "Running", "containerStatuses": []})
        await eventually(lambda: api.condition("Stalled").get("status") == "False")
        await eventually(lambda: event_notes(api, "Recovered"))

    assert len(event_notes(api, "ImagePull")) == 1


async def test_a_refusal_stands_until_a_pod_is_taken(
    api: ApiServer, start_operator: StartOperator, monkeypatch: Any
):
    monkeypatch.setattr("modelfleet_operator.cluster.refusals.REFUSAL_STANDS", 0.3)
    api.refuse_pods = 'pods "x" is forbidden: exceeded quota: gpus, requested: 1, used: 4'
    seen: set[str] = set()
    async with start_operator() as cluster:
        await cluster.apply()
        await eventually(lambda: api.condition("Stalled").get("status") == "True")
        asked = len(api.asked("POST", "pods"))
        while len(api.asked("POST", "pods")) < asked + 3:  # it is tried again and again
            await eventually(
                lambda: seen.add(api.condition("Stalled")["reason"]) or api.condition("Stalled")
            )
            await the_next_attempt(api, cluster)
        api.refuse_pods = ""
        await eventually(api.running)
        await eventually(lambda: api.condition("Stalled").get("status") == "False")

    assert seen == {"QuotaExceeded"}, "without a moment's doubt between the attempts"
    assert len(event_notes(api, "QuotaExceeded")) == 1


async def the_next_attempt(api: ApiServer, cluster: Cluster) -> None:
    before = len(api.asked("POST", "pods"))
    await eventually(lambda: len(api.asked("POST", "pods")) > before)


async def test_the_cheapest_class_is_chosen_and_told_with_its_figures(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply_class(
            "h100", memory="80Gi", memoryBandwidth="3350G", price={"onDemand": "40"}
        )
        await cluster.apply_class(
            "slice",
            resource={"name": "nvidia.com/mig-1g.10gb"},
            fraction="1/7",
            memory="70Gi",
            memoryBandwidth="3500G",
            price={"onDemand": "3.50"},
        )
        await cluster.apply(placement={"accelerators": ["h100", "slice"], "strategy": "Cheapest"})
        name = await the_pod(api, "slice")
        await eventually(lambda: event_notes(api, "PlacementChosen"))
        told = api.model()["status"]["placement"]

    assert "podAffinity" in api.pods()[name]["spec"]["affinity"], "it is packed"
    (note,) = event_notes(api, "PlacementChosen")
    assert note.startswith("new workers go to slice: ")
    assert "estimated from its memory bandwidth" in note
    assert "next h100: " in note
    assert (told["accelerator"], told["runnerUp"]["accelerator"]) == ("slice", "h100")


async def test_a_model_that_no_class_can_hold_is_said_so(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply_class("l4", memory="1Gi", price={"onDemand": "1"})
        await cluster.apply(placement={"accelerators": ["l4"], "strategy": "Cheapest"})
        stalled = await eventually(
            lambda: api.condition("Stalled").get("status") == "True" and api.condition("Stalled")
        )
    assert stalled["reason"] == "ModelDoesNotFit"
    assert "its memory is 1 GiB" in stalled["message"]
    assert not api.pods()

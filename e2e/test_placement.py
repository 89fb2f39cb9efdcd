"""Accelerator classes on real nodes: the scheduler places, says what is short, and the next serves.

The extended resources are this test's own: no other test competes for them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.cluster import Cluster
from kube import Kube, Object, eventually, model_deployment
from traffic import Traffic

BEST, NEXT = "e2e-best", "e2e-next"
SHOWN = 30.0  # seconds until a fault must show
FALLBACK_AFTER = 10.0


def accelerator_class(name: str, price: str = "1") -> Object:
    return {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "AcceleratorClass",
        "metadata": {"name": name},
        "spec": {"resource": {"name": f"modelfleet.test/{name}"}, "price": {"onDemand": price}},
    }


def placed(*classes: str, **spec: object) -> Object:
    placement = {"accelerators": [*classes], "fallbackAfter": f"{FALLBACK_AFTER:g}s"}
    return model_deployment(placement=placement, **spec)


@pytest.fixture
def nodes(machine: Cluster, administrator: Kube) -> Iterator[Cluster]:
    """One worker of the best class fits on node-1, three of the next on node-2."""
    machine.advertise("node-1", f"modelfleet.test/{BEST}", 1)
    machine.advertise("node-2", f"modelfleet.test/{NEXT}", 3)
    administrator.apply(accelerator_class(BEST, "6.50"), accelerator_class(NEXT, "1.25"))
    yield machine
    administrator("delete", "acceleratorclass", BEST, NEXT, "--ignore-not-found")


def on(kube: Kube, accelerator: str) -> list[str]:
    """Nodes of the workers of a class."""
    pods = kube.items("pods", f"modelfleet.dev/accelerator={accelerator}")
    return [p["spec"].get("nodeName", "") for p in pods if "deletionTimestamp" not in p["metadata"]]


def test_what_does_not_fit_on_the_best_class_runs_on_the_next(
    kube: Kube, nodes: Cluster, gateway: str
):
    del nodes
    kube.apply(placed(BEST, NEXT, scaling={"minReplicas": 2, "maxReplicas": 2}))
    kube.wait("Ready", "modeldeployment/model")
    with Traffic(gateway, f"{kube.namespace}/model", clients=2) as traffic:
        waiting = eventually(
            "the second one waits visibly",
            lambda: (
                (c := kube.condition("model", "Reconciling"))
                and c["reason"] == "Unschedulable"
                and c
            ),
            SHOWN,
        )
        assert BEST in waiting["message"]
        assert f"Insufficient modelfleet.test/{BEST}" in waiting["message"]
        eventually(
            "two are ready", lambda: kube.model("model")["status"].get("readyReplicas") == 2, 60
        )
        traffic.wait_for_answers(4)
    traffic.check()

    assert (on(kube, BEST), on(kube, NEXT)) == (["node-1"], ["node-2"])
    limited = kube.condition("model", "PlacementLimited")
    assert (limited["status"], limited["reason"]) == ("True", "AcceleratorShort")
    cost = eventually("it is added up", lambda: kube.model("model")["status"].get("cost"), SHOWN)
    assert cost == {"perHour": "7.75"}


def test_without_room_anywhere_it_says_so_for_each_class_and_heals(kube: Kube, nodes: Cluster):
    for node, name in (("node-1", BEST), ("node-2", NEXT)):
        nodes.advertise(node, f"modelfleet.test/{name}", 0)
    kube.apply(placed(BEST, NEXT))
    ready = eventually(
        "both are short",
        lambda: (
            (c := kube.condition("model", "Ready"))
            and NEXT in c.get("message", "")
            and f"{BEST} is short" in c["message"]
            and c
        ),
        FALLBACK_AFTER + SHOWN,
    )
    assert ready["reason"] == "Unschedulable"
    assert len(kube.workers("model")) == 1, "one waits, not one of each class"
    nodes.advertise("node-2", f"modelfleet.test/{NEXT}", 1)
    kube.wait("Ready", "modeldeployment/model", 60)


def test_a_class_that_is_missing_is_named_until_it_is_there(kube: Kube, nodes: Cluster):
    del nodes
    kube("delete", "acceleratorclass", BEST)
    kube.apply(placed(BEST))
    kube.wait("Stalled", "modeldeployment/model", SHOWN)
    stalled = kube.condition("model", "Stalled")
    assert stalled["reason"] == "AcceleratorClassMissing"
    assert BEST in stalled["message"]
    kube.apply(accelerator_class(BEST))
    kube.wait("Ready", "modeldeployment/model", 60)


def test_a_change_waits_for_the_only_accelerator_or_drains_its_worker_first(
    kube: Kube, nodes: Cluster, gateway: str
):
    del nodes
    kube.apply(placed(BEST))
    kube.wait("Ready", "modeldeployment/model")
    with Traffic(gateway, f"{kube.namespace}/model", clients=2) as traffic:
        traffic.wait_for_answers(2)
        kube.patch("modeldeployment", "model", {"spec": {"engine": {"maxSequences": 32}}})
        waiting = eventually(
            "the surge waits visibly",
            lambda: (
                (c := kube.condition("model", "Reconciling"))
                and c["reason"] == "Unschedulable"
                and c
            ),
            SHOWN,
        )
        assert BEST in waiting["message"]
        assert kube.condition("model", "Ready")["status"] == "True"
        traffic.wait_for_answers(4)
        asked = kube.model("model")["status"]["revision"]
        kube.patch(
            "modeldeployment", "model", {"spec": {"rollout": {"maxSurge": 0, "maxUnavailable": 1}}}
        )
        eventually(
            "the new revision has the accelerator",
            lambda: (
                [
                    pod["metadata"]["labels"]["modelfleet.dev/revision"]
                    for pod in kube.workers("model")
                    if pod["spec"].get("nodeName")
                ]
                == [asked]
                and kube.model("model")["status"].get("readyReplicas") == 1
            ),
            90,
        )
        traffic.wait_for_answers(6)
    traffic.check()

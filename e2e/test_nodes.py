"""A node that is deleted, and one whose kubelet is silent: workers are replaced, nothing is lost.

Traffic goes to the gateway on the node that stays: one that is killed takes its connections along.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cluster.cluster import Cluster
from installation import Installation
from kube import Kube, Object, eventually, model_deployment
from traffic import Traffic

KEPT, LOST = "node-1", "node-2"
NOTICED = 50.0 + 30.0  # seconds: the cluster's own grace period for a node, then ours to show it
COLLECTED = 120.0  # the pod garbage collector's 20 s, its quarantine of 40 s, and a start


@pytest.fixture
def power(machine: Cluster, administrator: Kube) -> Iterator[Cluster]:
    """Power over a node, which is there again afterwards."""
    yield machine
    machine.stop_kubelet(LOST)  # it registers its node when it starts
    machine.start_kubelet(LOST)
    eventually("the node is back", lambda: administrator.find("node", LOST))
    administrator.wait("Ready", f"node/{LOST}")


@pytest.fixture
def spread(kube: Kube, power: Cluster) -> Kube:
    """A deployment with a worker on each node."""
    del power
    kube.apply(_model())
    kube.wait("Ready", "modeldeployment/model")
    eventually("a worker on each node", lambda: sorted(_nodes(kube)) == [KEPT, LOST])
    kube("wait", "--for=condition=Ready", "pods", "--all", "--timeout=60s", timeout=70)
    return kube


def test_a_node_that_is_deleted(spread: Kube, installation: Installation, administrator: Kube):
    with Traffic(installation.gateways()[KEPT], f"{spread.namespace}/model", clients=2) as traffic:
        traffic.wait_for_answers(4)
        administrator("delete", "node", LOST)
        eventually("its worker is replaced", lambda: _nodes(spread) == [KEPT, KEPT], COLLECTED)
        eventually("and both serve", lambda: _serves(spread, 2))
        traffic.wait_for_answers(4)
    traffic.check()


def test_pods_that_never_end_do_not_block_their_successors(
    spread: Kube, power: Cluster, installation: Installation
):
    (stuck,) = [pod for pod in spread.workers("model") if pod["spec"]["nodeName"] == LOST]
    power.stop_kubelet(LOST)
    with Traffic(installation.gateways()[KEPT], f"{spread.namespace}/model", clients=2) as traffic:
        eventually("it shows", lambda: _says_node_lost(spread, stuck), NOTICED)
        before = spread.model("model")["status"]["revision"]
        spread.apply(_model(engine={"maxSequences": 8}))
        eventually("the change is through", lambda: _is_through(spread, before), 90)
        left = spread.get("pod", stuck["metadata"]["name"])
        assert "deletionTimestamp" in left["metadata"], "no kubelet has said that it ended"
        traffic.wait_for_answers(4)
        power.start_kubelet(LOST)
        eventually("it ends", lambda: not spread.find("pod", stuck["metadata"]["name"]))
    traffic.check()


def _model(**spec: Any) -> Object:
    found = model_deployment(scaling={"minReplicas": 2, "maxReplicas": 2}, **spec)
    found["spec"]["podTemplate"]["spec"]["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"modelfleet.dev/deployment": "model"}},
        }
    ]
    return found


def _nodes(kube: Kube) -> list[str]:
    return [pod["spec"].get("nodeName", "") for pod in kube.workers("model")]


def _serves(kube: Kube, count: int) -> bool:
    status = kube.model("model")["status"]
    said = kube.condition("model", "Ready")
    return (status["readyReplicas"], status["replicas"], said["reason"]) == (
        count,
        count,
        "Serving",
    )


def _says_node_lost(kube: Kube, pod: Object) -> bool:
    told = kube.model("model")["status"].get("interruptions", ())
    return any((i["kind"], i["worker"]) == ("NodeLost", pod["metadata"]["name"]) for i in told)


def _is_through(kube: Kube, before: str) -> bool:
    model = kube.model("model")
    revisions = {
        pod["metadata"]["labels"]["modelfleet.dev/revision"] for pod in kube.workers("model")
    }
    return (
        model["status"]["observedGeneration"] == model["metadata"]["generation"]
        and model["status"]["revision"] != before
        and revisions == {model["status"]["revision"]}
        and _serves(kube, 2)
    )

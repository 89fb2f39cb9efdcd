"""Other hands on the count: `kubectl scale` and a real HorizontalPodAutoscaler, through /scale."""

from __future__ import annotations

import json
import signal

import pytest

from installation import Installation
from kube import Kube, Object, eventually, model_deployment
from processes import processes
from traffic import Traffic


def ready(kube: Kube) -> int:
    return int(kube.model("model").get("status", {}).get("readyReplicas", 0))


def test_kubectl_scale_says_the_count_in_mode_external(kube: Kube):
    kube.apply(model_deployment(scaling={"mode": "External", "minReplicas": 1}))
    eventually("one worker until a person scales", lambda: ready(kube) == 1)
    kube("scale", "modeldeployment/model", "--replicas=3")
    eventually("three, as asked", lambda: ready(kube) == 3)
    scale = json.loads(kube("get", "--raw", path(kube)))
    assert scale["status"]["replicas"] == 3
    assert scale["status"]["selector"] == "modelfleet.dev/deployment=model"
    kube("scale", "modeldeployment/model", "--replicas=0")
    eventually("none, as asked", lambda: not kube.workers("model"))
    found = kube.condition("model", "Ready")
    assert (found["status"], found["reason"]) == ("False", "ScaledToZero")


def path(kube: Kube) -> str:
    group = "/apis/modelfleet.dev/v1alpha1"
    return f"{group}/namespaces/{kube.namespace}/modeldeployments/model/scale"


def test_ten_scale_cycles_with_changes_of_leaders_between_lose_no_request(
    kube: Kube, gateway: str, installation: Installation
):
    """A leader is killed, two leave, and all operators restart, each in the middle of a step."""
    kube.apply(model_deployment(scaling={"mode": "External", "replicas": 1}))
    kube.wait("Ready", "modeldeployment/model")
    disturbed = {3: ("killed", "leaves"), 6: ("leaves", "all restart")}
    asked: list[tuple[int, int]] = []
    with Traffic(gateway, f"{kube.namespace}/model", clients=4) as traffic:
        for cycle in range(10):
            many = 3 if cycle in disturbed else 2
            steps = ((1, many), (many, 1))
            for (before, after), how in zip(steps, disturbed.get(cycle, ("", "")), strict=True):
                step = Step(kube, before, after)
                disturb(installation, how)
                step.check()
                traffic.wait_for_answers(4)
            asked += steps
    traffic.check()
    history = [(s["from"], s["to"]) for s in status(kube)["scalingHistory"]]
    assert history == asked[-len(history) :], "a count that was not asked for"


class Step:
    """`kubectl scale` to another count, begun when this returns, and what must become of it."""

    def __init__(self, kube: Kube, before: int, after: int) -> None:
        self._kube, self._after = kube, after
        self._there = uids(kube)
        assert len(self._there) == before
        kube("scale", "modeldeployment/model", f"--replicas={after}")
        if after > before:
            eventually("it has begun", lambda: uids(kube) > self._there)
        else:
            eventually("it has begun", lambda: status(kube).get("desiredReplicas") == after)

    def check(self) -> None:
        """The count is reached by exactly the workers that it takes."""
        kube, after = self._kube, self._after
        eventually("as asked", lambda: ready(kube) == len(uids(kube)) == after, 90)
        eventually("it says so", lambda: status(kube).get("replicas") == after)
        larger, smaller = sorted((self._there, uids(kube)), key=len, reverse=True)
        assert smaller < larger, "a worker that was to stay is gone, or another one came"


def disturb(installation: Installation, how: str) -> None:
    """Ends operators while they act; nothing if `how` is empty."""
    if how == "leaves":
        system = installation.kube.within(installation.namespace)
        system("delete", "pod", installation.leader()["metadata"]["name"], "--wait=false")
    elif how:
        pods = [installation.leader()] if how == "killed" else installation.pods("operator")
        victims = [p for pod in pods for p in processes(pod["metadata"]["uid"], "operator")]
        assert victims
        for victim in victims:
            victim.send_signal(signal.SIGKILL)


def uids(kube: Kube) -> set[str]:
    return {pod["metadata"]["uid"] for pod in kube.workers("model")}


def status(kube: Kube) -> Object:
    found: Object = kube.model("model").get("status", {})
    return found


def test_a_real_autoscaler_of_kubernetes_drives_it(kube: Kube, gateway: str):
    """On processor time, which a paced worker hardly uses: so the target is very low."""
    if kube.run("get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes").returncode:
        pytest.skip("this cluster has no metrics API")
    worker = {"name": "worker", "resources": {"requests": {"cpu": "20m"}}}
    manifest = model_deployment(scaling={"mode": "External", "replicas": 1})
    manifest["spec"]["podTemplate"]["spec"]["containers"][0] |= worker
    kube.apply(manifest)
    kube.wait("Ready", "modeldeployment/model")
    kube.apply(
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "model"},
            "spec": {
                "scaleTargetRef": {
                    "apiVersion": "modelfleet.dev/v1alpha1",
                    "kind": "ModelDeployment",
                    "name": "model",
                },
                "minReplicas": 1,
                "maxReplicas": 2,
                "metrics": [
                    {
                        "type": "Resource",
                        "resource": {
                            "name": "cpu",
                            "target": {"type": "Utilization", "averageUtilization": 10},
                        },
                    }
                ],
            },
        }
    )
    with Traffic(gateway, f"{kube.namespace}/model", clients=4) as traffic:
        eventually("the autoscaler saw the load and wrote the count", lambda: ready(kube) == 2, 150)
    traffic.check()
    owners = {
        f["manager"]: f
        for f in kube.get("modeldeployment/model", "--show-managed-fields")["metadata"][
            "managedFields"
        ]
    }
    assert "modelfleet" in owners  # status only
    assert "f:spec" not in owners["modelfleet"]["fieldsV1"]

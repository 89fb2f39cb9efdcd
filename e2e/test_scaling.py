"""Other hands on the count: `kubectl scale` and a real HorizontalPodAutoscaler, through /scale."""

from __future__ import annotations

import json

import pytest

from kube import Kube, eventually, model_deployment
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

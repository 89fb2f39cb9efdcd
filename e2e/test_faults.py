"""What goes wrong on a cluster shows in the conditions, and heals when the cause goes."""

from __future__ import annotations

import copy

from installation import MODELS
from kube import Kube, Object, eventually, model_deployment
from traffic import Traffic

SHOWN = 30.0  # seconds until a fault must show
HEALED = 60.0  # seconds until it must be gone once its cause is; back-off included


def template(**container: object) -> Object:
    """A podTemplate that adds to the paced worker's container."""
    base = copy.deepcopy(model_deployment()["spec"]["podTemplate"])
    worker = base["spec"]["containers"][0]
    worker["env"] = [*worker["env"], *container.pop("env", [])]  # type: ignore[misc]
    worker.update(container)
    return base


def says(kube: Kube, name: str, type_: str, reason: str, status: str = "True") -> Object | None:
    """The condition, once it is that."""
    found = kube.condition(name, type_)
    right = found.get("status") == status and found.get("reason") == reason
    return found if right else None


def test_an_image_that_cannot_be_pulled(kube: Kube):
    broken = template()
    broken["spec"]["initContainers"] = [{"name": "first", "image": "localhost/no/such:image"}]
    kube.apply(model_deployment(podTemplate=broken))
    found = eventually(
        "it shows", lambda: says(kube, "model", "Ready", "ImagePull", "False"), SHOWN
    )
    assert "localhost/no/such:image" in found["message"]

    kube.apply(model_deployment())
    kube.wait("Ready", "modeldeployment/model", HEALED)


def test_a_worker_that_ends_at_once(kube: Kube):
    gone = [{"name": "MODELFLEET_CALIBRATION", "value": "/gone.json"}]
    kube.apply(model_deployment(podTemplate=template(env=gone)))
    found = eventually("it shows", lambda: says(kube, "model", "Stalled", "CrashLoop"), SHOWN)
    assert "$MODELFLEET_CALIBRATION" in found["message"]  # no value of a variable is told

    kube.apply(model_deployment())
    kube.wait("Ready", "modeldeployment/model", HEALED)


def test_a_worker_that_runs_out_of_memory(kube: Kube):
    tiny = {"limits": {"memory": "24Mi"}, "requests": {"memory": "24Mi"}}
    kube.apply(model_deployment(podTemplate=template(resources=tiny)))
    found = eventually(
        "it shows", lambda: says(kube, "model", "Ready", "OutOfMemory", "False"), SHOWN
    )
    assert "memory" in found["message"]

    kube.apply(model_deployment())
    kube.wait("Ready", "modeldeployment/model", HEALED)


def test_a_quota_that_is_used_up(kube: Kube):
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    kube.apply({"apiVersion": "v1", "kind": "ResourceQuota", **quota})
    eventually(
        "the quota counts", lambda: kube.get("resourcequota", "none").get("status", {}).get("hard")
    )
    kube.apply(model_deployment())
    found = eventually(
        "it shows", lambda: says(kube, "model", "Ready", "QuotaExceeded", "False"), SHOWN
    )
    assert "none" in found["message"]

    kube("delete", "resourcequota", "none")
    kube.wait("Ready", "modeldeployment/model", HEALED)


def test_a_limit_range_that_the_worker_exceeds(kube: Kube):
    limits = [{"type": "Container", "max": {"memory": "64Mi"}}]
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "LimitRange",
            "metadata": {"name": "small"},
            "spec": {"limits": limits},
        }
    )
    big = {"limits": {"memory": "1Gi"}, "requests": {"memory": "1Gi"}}
    kube.apply(model_deployment(podTemplate=template(resources=big)))
    found = eventually(
        "it shows", lambda: says(kube, "model", "Ready", "LimitRange", "False"), SHOWN
    )
    assert "64Mi" in found["message"]

    kube("delete", "limitrange", "small")
    kube.wait("Ready", "modeldeployment/model", HEALED)


def test_a_namespace_that_allows_no_such_pod(kube: Kube):
    label = "pod-security.kubernetes.io/enforce"
    kube("label", "namespace", kube.namespace, f"{label}=restricted", "--overwrite")
    mounting = template()
    mounting["spec"]["volumes"] = [{"name": "models", "hostPath": {"path": str(MODELS)}}]
    kube.apply(model_deployment(podTemplate=mounting))
    found = eventually(
        "it shows", lambda: says(kube, "model", "Ready", "PodSecurity", "False"), SHOWN
    )
    assert "restricted" in found["message"]

    kube.apply(model_deployment())
    kube.wait("Ready", "modeldeployment/model", HEALED)


def test_two_deployments_that_serve_the_same_name(kube: Kube, gateway: str):
    shared = {"source": "hf://modelfleet/paced", "servedNames": [f"chat-{kube.namespace}"]}
    kube.apply(model_deployment("older", model=shared))
    kube.wait("Ready", "modeldeployment/older")
    kube.apply(model_deployment("younger", model=shared))
    found = eventually(
        "it shows", lambda: says(kube, "younger", "NameConflict", "NameTaken"), SHOWN
    )
    assert f"{kube.namespace}/older" in found["message"]
    kube.wait("Ready", "modeldeployment/younger")  # by its full name it is served

    with Traffic(gateway, f"chat-{kube.namespace}", clients=2) as traffic:
        traffic.wait_for_answers(2)
    traffic.check()

    kube("delete", "modeldeployment", "older")
    eventually(
        "the name is free", lambda: says(kube, "younger", "NameConflict", "NoConflict", "False")
    )


def test_the_same_name_in_two_namespaces(kube: Kube, other_namespace: Kube, gateway: str):
    for place in (kube, other_namespace):
        place.apply(model_deployment("twin"))
    for place in (kube, other_namespace):
        place.wait("Ready", "modeldeployment/twin")
        with Traffic(gateway, f"{place.namespace}/twin", clients=2) as traffic:
            traffic.wait_for_answers(2)
        traffic.check()
    other_namespace("delete", "modeldeployment", "twin")
    with Traffic(gateway, f"{kube.namespace}/twin", clients=2) as traffic:
        traffic.wait_for_answers(2)
    traffic.check()


def test_an_object_that_is_edited_while_its_pods_start(kube: Kube):
    for size in (1, 2, 3, 4, 5):
        kube.apply(model_deployment(engine={"maxSequences": size}, scaling={"minReplicas": 2}))
    kube.wait("Ready", "modeldeployment/model")

    def settled() -> bool:
        model = kube.model("model")
        revisions = {
            pod["metadata"]["labels"]["modelfleet.dev/revision"] for pod in kube.workers("model")
        }
        return (
            revisions == {model["status"]["revision"]}
            and model["status"]["readyReplicas"] == 2
            and model["status"]["observedGeneration"] == model["metadata"]["generation"]
        )

    eventually("only the last one is left, whole", settled)

"""Dynamic resource allocation on a real API server and scheduler: templates, claims, and refusals.

Where a claim is to stay pending, nothing publishes a device; else Kubernetes' own test driver does.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.cluster import Cluster
from kube import Kube, Object, eventually, model_deployment

CLASS, DEVICES = "e2e-claimed", "e2e.modelfleet.test"
SHOWN = 30.0  # seconds until a fault must show


def accelerator_class(expression: str) -> Object:
    claim = {"deviceClassName": DEVICES, "selectors": [{"expression": expression}]}
    return {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "AcceleratorClass",
        "metadata": {"name": CLASS},
        "spec": {"deviceClaim": claim},
    }


def unschedulable(kube: Kube) -> Object | None:
    found = kube.condition("model", "Reconciling")
    return found if found.get("reason") == "Unschedulable" else None


@pytest.fixture
def devices(administrator: Kube) -> Iterator[None]:
    """A DeviceClass without devices, and an AcceleratorClass that names it."""
    administrator.apply(
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceClass",
            "metadata": {"name": DEVICES},
            "spec": {"selectors": [{"cel": {"expression": f'device.driver == "{DEVICES}"'}}]},
        },
        accelerator_class("true"),
    )
    yield
    administrator("delete", "acceleratorclass", CLASS, "--ignore-not-found")
    administrator("delete", "deviceclass", DEVICES, "--ignore-not-found")


def test_a_claim_that_no_device_satisfies_is_said_and_goes_with_its_model(
    kube: Kube, devices: None
):
    del devices
    kube.apply(model_deployment(placement={"accelerators": [CLASS]}))
    waiting = eventually("the claim is short", lambda: unschedulable(kube), SHOWN)
    assert f"accelerator class {CLASS}" in waiting["message"]
    assert "cannot allocate all claims" in waiting["message"]
    (template,) = kube.items("resourceclaimtemplates.resource.k8s.io")
    assert template["metadata"]["ownerReferences"][0]["name"] == "model"
    (claim,) = kube.items("resourceclaims.resource.k8s.io")
    assert claim["metadata"]["ownerReferences"][0]["kind"] == "Pod"
    assert "allocation" not in claim.get("status", {})
    kube("delete", "modeldeployment", "model")
    eventually(
        "the garbage collector takes them",
        lambda: (
            not kube.items("resourceclaimtemplates.resource.k8s.io")
            and not kube.items("resourceclaims.resource.k8s.io")
        ),
        SHOWN,
    )


def test_a_selector_that_does_not_compile_is_said_in_the_api_servers_words_and_heals(
    kube: Kube, devices: None
):
    del devices
    kube.apply(accelerator_class("device.attributes["))
    kube.apply(model_deployment(placement={"accelerators": [CLASS]}))
    kube.wait("Stalled", "modeldeployment/model", SHOWN)
    stalled = kube.condition("model", "Stalled")
    assert stalled["reason"] == "DeviceClaimRefused"
    assert f"AcceleratorClass {CLASS}, spec.deviceClaim" in stalled["message"]
    assert "compilation failed" in stalled["message"]
    kube.apply(accelerator_class('device.driver == "x"'))
    eventually("it heals by itself", lambda: unschedulable(kube), 60)


@pytest.fixture
def published(machine: Cluster, administrator: Kube) -> Iterator[str]:
    """Two devices on node-1, and an AcceleratorClass of them; the driver's name."""
    driver = machine.start_devices("node-1", 2)
    administrator.apply(
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceClass",
            "metadata": {"name": DEVICES},
            "spec": {"selectors": [{"cel": {"expression": f'device.driver == "{driver}"'}}]},
        },
        accelerator_class("true"),
    )
    yield driver
    machine.stop_devices("node-1")
    administrator("delete", "acceleratorclass", CLASS, "--ignore-not-found")
    administrator("delete", "deviceclass", DEVICES, "--ignore-not-found")


def test_a_claim_is_allocated_prepared_and_given_back(machine: Cluster, kube: Kube, published: str):
    """Containerd 1.6 knows no CDI, so the container gets nothing of its device."""
    kube.apply(model_deployment(placement={"accelerators": [CLASS]}))
    kube.wait("Ready", "modeldeployment/model", 60)
    (pod,) = kube.workers("model")
    assert pod["spec"]["nodeName"] == "node-1", "that is where the devices are"
    (claim,) = kube.items("resourceclaims.resource.k8s.io")
    (result,) = claim["status"]["allocation"]["devices"]["results"]
    assert (result["driver"], result["pool"]) == (published, "node-1")
    assert [user["uid"] for user in claim["status"]["reservedFor"]] == [pod["metadata"]["uid"]]
    uid = claim["metadata"]["uid"]
    assert [name for name in machine.prepared_claims("node-1") if uid in name]
    kube("delete", "modeldeployment", "model")
    eventually(
        "the device is given back",
        lambda: (
            not [name for name in machine.prepared_claims("node-1") if uid in name]
            and not kube.items("resourceclaims.resource.k8s.io")
        ),
        SHOWN,
    )

"""Devices by dynamic resource allocation: the template that is made, and the pod that uses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from class_pods import known, pod, the_pod, unschedulable
from kube_cluster import ApiServer, Cluster, eventually
from modelfleet_operator.cluster.accelerators import KnownClass, placed
from modelfleet_operator.cluster.api import ClusterApi
from modelfleet_operator.cluster.device_claims import claim_template, with_claim
from modelfleet_operator.errors import RejectedError

StartOperator = Callable[..., Any]
OWNER = {"name": "smol", "namespace": "default", "uid": "uid-1"}
SELECTOR = 'device.attributes["gpu.example.com"].model == "H100"'
CLAIM = {
    "deviceClassName": "gpu.example.com",
    "count": 2,
    "selectors": [{"expression": SELECTOR}],
}
H100 = known(deviceClaim=CLAIM)


def name_of(class_: KnownClass, owner: dict[str, str] = OWNER) -> str:
    return str(claim_template(class_, owner, "ModelDeployment")["metadata"]["name"])


def test_the_template_asks_for_what_the_class_says_and_belongs_to_the_deployment():
    made = claim_template(H100, OWNER, "ModelDeployment")
    (request,) = made["spec"]["spec"]["devices"]["requests"]
    assert request["exactly"] == {
        "deviceClassName": "gpu.example.com",
        "allocationMode": "ExactCount",
        "count": 2,
        "selectors": [{"cel": {"expression": SELECTOR}}],
    }
    (owner,) = made["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("ModelDeployment", "uid-1", True)
    assert made["metadata"]["name"].startswith("smol-h100-")


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(known(deviceClaim={**CLAIM, "count": 1}), id="another count"),
        pytest.param(known(deviceClaim={**CLAIM, "selectors": []}), id="another selector"),
        pytest.param(known("a10", deviceClaim=CLAIM), id="another class"),
    ],
)
def test_another_claim_is_another_template(other: KnownClass):
    assert name_of(other) != name_of(H100)
    assert name_of(H100, {**OWNER, "uid": "uid-2"}) != name_of(H100), "and so is another owner"
    assert name_of(known(generation=9, deviceClaim=CLAIM, price={"onDemand": "1"})) == name_of(H100)


def test_the_worker_uses_the_claim_and_the_sidecar_does_not():
    made = with_claim(placed(pod(), H100), "smol-h100-abc")
    assert made["spec"]["resourceClaims"] == [
        {"name": "accelerator", "resourceClaimTemplateName": "smol-h100-abc"}
    ]
    sidecar, worker = made["spec"]["containers"]
    assert worker["resources"] == {"claims": [{"name": "accelerator"}]}
    assert "resources" not in sidecar


def test_claims_of_the_pod_template_stay_beside_it():
    before = pod(resourceClaims=[{"name": "nic", "resourceClaimName": "n"}])
    before["spec"]["containers"][1]["resources"] = {"claims": [{"name": "nic"}]}
    spec = with_claim(before, "t")["spec"]
    assert [c["name"] for c in spec["resourceClaims"]] == ["nic", "accelerator"]
    assert [c["name"] for c in spec["containers"][1]["resources"]["claims"]] == [
        "nic",
        "accelerator",
    ]


async def test_it_is_made_once_and_replaces_the_one_before(api: ApiServer, kubernetes: ClusterApi):
    claims = kubernetes.device_claims
    for _ in range(2):
        await claims.claimed(pod(), H100, OWNER, "ModelDeployment")
    assert list(api.claim_templates()) == [name_of(H100)]
    one = known(deviceClaim={**CLAIM, "count": 1})
    await claims.claimed(pod(), known("a10", deviceClaim=CLAIM), OWNER, "ModelDeployment")
    made = await claims.claimed(pod(), one, OWNER, "ModelDeployment")
    assert made["spec"]["resourceClaims"][0]["resourceClaimTemplateName"] == name_of(one)
    assert set(api.claim_templates()) == {
        name_of(one),
        name_of(known("a10", deviceClaim=CLAIM)),
    }, "those of other classes stay"


async def test_one_that_another_hand_deleted_is_made_again(api: ApiServer, kubernetes: ClusterApi):
    claims = kubernetes.device_claims
    await claims.claimed(pod(), H100, OWNER, "ModelDeployment")
    await Cluster(api).delete_claim_template(name_of(H100))
    assert not api.claim_templates()
    await claims.claimed(pod(), H100, OWNER, "ModelDeployment")
    assert list(api.claim_templates()) == [name_of(H100)]


async def test_a_class_without_a_claim_asks_for_nothing(api: ApiServer, kubernetes: ClusterApi):
    given = pod()
    assert await kubernetes.device_claims.claimed(given, known(), OWNER, "WarmPool") is given
    assert not api.claim_templates()


async def test_an_older_cluster_is_told_so(api: ApiServer, kubernetes: ClusterApi):
    api.claims_status = 404
    api.refuse_claims = "the server could not find the requested resource"
    with pytest.raises(RejectedError, match=r"does not serve resource\.k8s\.io/v1"):
        await kubernetes.device_claims.claimed(pod(), H100, OWNER, "ModelDeployment")


async def test_a_selector_that_the_api_server_refuses_is_a_condition_and_heals(
    api: ApiServer, start_operator: StartOperator
):
    api.refuse_claims = (
        "spec.spec.devices.requests[0].exactly.selectors[0].cel.expression: Invalid value: "
        '"device.attributes[": compilation failed'
    )
    async with start_operator() as cluster:
        await cluster.apply_class("h100", deviceClaim=CLAIM)
        await cluster.apply(placement={"accelerators": ["h100"]})
        stalled = await eventually(
            lambda: api.condition("Stalled").get("status") == "True" and api.condition("Stalled")
        )
        assert stalled["reason"] == "DeviceClaimRefused"
        assert "AcceleratorClass h100, spec.deviceClaim" in stalled["message"]
        assert "compilation failed" in stalled["message"]
        assert not api.pods()
        api.refuse_claims = ""
        await cluster.change({"engine": {"maxSequences": 8}})
        name = await the_pod(api, "h100")
    assert api.pods()[name]["spec"]["resourceClaims"]


async def test_a_claim_that_nothing_satisfies_is_as_a_resource_that_is_short(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply_class("h100", deviceClaim=CLAIM)
        await cluster.apply_class("a10")
        await cluster.apply(placement={"accelerators": ["h100", "a10"]})
        first = await the_pod(api, "h100")
        why = "0/2 nodes are available: 2 cannot allocate all claims."
        await cluster.report(first, unschedulable(why))
        await the_pod(api, "a10")
        await eventually(lambda: api.condition("PlacementLimited").get("status") == "True")
    limited = api.condition("PlacementLimited")
    assert limited["reason"] == "AcceleratorShort"
    assert "cannot allocate all claims" in limited["message"]


async def test_standbys_of_a_warm_pool_claim_them_too(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator() as cluster:
        await cluster.apply_class("h100", deviceClaim=CLAIM)
        await cluster.apply_pool(accelerator="h100", size=1)
        name = await the_pod(api, "h100")
    (template,) = api.claim_templates().values()
    assert template["metadata"]["ownerReferences"][0]["kind"] == "WarmPool"
    claim = api.pods()[name]["spec"]["resourceClaims"][0]
    assert claim["resourceClaimTemplateName"] == template["metadata"]["name"]

"""Which deployments can claim a standby: those whose pod would be the same but for the model."""

from __future__ import annotations

from typing import Any

import pytest

from modelfleet_operator.api.manifests import check_manifest
from modelfleet_operator.cluster.claimable import model_flags_of, why_not_claimable
from modelfleet_operator.cluster.known import Known, read_deployment
from modelfleet_operator.cluster.observing import observed_worker
from modelfleet_operator.cluster.pods import PodSettings, pod_template
from modelfleet_operator.cluster.pool_pods import (
    KnownPool,
    claim_patch,
    make_pool,
    read_pool,
    standby_pod,
)
from modelfleet_operator.cluster.standbys import read_standby
from modelfleet_operator.views import model_flags

SETTINGS = PodSettings(image="worker:1")
OWNER = {"name": "smol", "namespace": "default", "uid": "uid-smol"}


def known_pool(**spec: Any) -> KnownPool:
    return read_pool(
        {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "WarmPool",
            "metadata": {"name": "gpus", "namespace": "default", "uid": "uid-gpus"},
            "spec": spec,
        }
    )


def deployment(settings: PodSettings = SETTINGS, **spec: Any) -> Known:
    return read_deployment(
        {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "smol", "namespace": "default", "uid": "uid-smol"},
            "spec": {"model": {"source": "hf://owner/name"}, **spec},
        },
        settings,
    )


def template(settings: PodSettings = SETTINGS, **spec: Any) -> dict[str, Any]:
    known = deployment(settings, **spec)
    assert known.manifest is not None, known.error
    return pod_template(known.manifest, settings)


def why_not(settings: PodSettings = SETTINGS, *, pool: dict[str, Any], **spec: Any) -> str:
    made = make_pool(known_pool(**pool), {}, settings)
    return why_not_claimable(template(settings, **spec), made.template)


def from_(source: str, **more: Any) -> dict[str, Any]:
    return {"model": {"source": source, **more}}


def under(**spec: Any) -> dict[str, Any]:
    return {"podTemplate": {"spec": spec}}


def worker(**container: Any) -> dict[str, Any]:
    return under(containers=[{"name": "worker", **container}])


@pytest.mark.parametrize(
    ("settings", "pool", "spec"),
    [
        pytest.param({}, {}, {}, id="a model of the hub"),
        pytest.param({}, {}, from_("hf://owner/name", revision="v1"), id="of another revision"),
        pytest.param({}, {}, from_("s3://bucket/model"), id="of a public bucket"),
        pytest.param({}, {}, from_("oci://registry/model:v1"), id="of a public registry"),
        pytest.param(
            {}, {}, {"engine": {"maxSequences": 3, "kvCacheMemory": "1Gi"}}, id="with limits"
        ),
        pytest.param({}, {}, {"quantization": {"weights": "Int4"}}, id="quantized"),
        pytest.param(
            {"hub_endpoint": "http://mirror", "offline": True},
            {},
            {},
            id="of the operator's mirror",
        ),
        pytest.param({"env": ({"name": "A", "value": "b"},)}, {}, {}, id="the chart's variables"),
        pytest.param(
            {"resources": {"limits": {"memory": "8Gi"}}}, {}, {}, id="the chart's own limits"
        ),
        pytest.param({"device": "paced"}, {}, {}, id="that only takes time"),
        pytest.param({}, {"memory": "160Gi"}, from_("hf://owner/Big-70B"), id="a large one"),
        pytest.param(
            {"host_paths": ("/cache",), "node_cache": "/cache"}, {}, {}, id="the node's cache"
        ),
        pytest.param({"image_pull_secrets": ("registry",)}, {}, {}, id="the operator's secrets"),
    ],
)
def test_fits_what_differs_in_its_model_only(
    settings: dict[str, Any], pool: dict[str, Any], spec: dict[str, Any]
):
    chosen = PodSettings(**{"image": "worker:1", **settings})
    assert why_not(chosen, pool=pool, **spec) == ""


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        pytest.param(
            from_("hf://owner/name", tokenSecretRef={"name": "t", "key": "k"}),
            "its worker has the variable HF_TOKEN, and a standby has not",
            id="a token",
        ),
        pytest.param(
            from_("pvc://claim/folder"), "its pod has the volume model, and a standby", id="a claim"
        ),
        pytest.param(
            from_("file:///models/m"), "its pod has the volume model, and a standby", id="a folder"
        ),
        pytest.param(
            under(serviceAccountName="me"),
            "its pod's serviceAccountName is not that of a standby",
            id="other rights",
        ),
        pytest.param(
            under(nodeSelector={"a": "b"}), "its pod's nodeSelector is not that", id="other nodes"
        ),
        pytest.param(
            under(imagePullSecrets=[{"name": "mine"}]),
            "its pod's imagePullSecrets is not that",
            id="secrets of its own",
        ),
        pytest.param(
            worker(env=[{"name": "A", "value": "b"}]), "has the variable A", id="a variable"
        ),
        pytest.param(
            worker(envFrom=[{"secretRef": {"name": "s"}}]),
            "its worker's envFrom is not that",
            id="a Secret's variables",
        ),
        pytest.param(
            worker(resources={"limits": {"memory": "8Gi"}}),
            "its worker's limits are not those",
            id="limits",
        ),
        pytest.param(
            worker(securityContext={"runAsUser": 1000}),
            "its worker's securityContext is not that",
            id="another user",
        ),
        pytest.param(
            under(containers=[{"name": "log", "image": "log:1"}]),
            "its pod has the container log",
            id="a sidecar",
        ),
        pytest.param(
            {"podTemplate": {"metadata": {"labels": {"team": "a"}}}},
            "spec.podTemplate.metadata.labels are set",
            id="labels",
        ),
        pytest.param(
            from_("hf://owner/Big-70B"), "its worker requests ", id="more memory than there is"
        ),
    ],
)
def test_says_what_else_its_pod_has(spec: dict[str, Any], why: str):
    settings = PodSettings(image="worker:1", host_paths=("/models",))
    assert why in why_not(settings, pool={}, **spec)


def test_another_image_is_another_standby():
    made = make_pool(known_pool(), {}, SETTINGS)
    newer = PodSettings(image="worker:2")
    assert "image is not that of a standby" in why_not_claimable(template(newer), made.template)
    assert make_pool(known_pool(), {}, newer).pool.template != made.pool.template
    again = make_pool(known_pool(size=9), {}, SETTINGS)
    assert again.pool.template == made.pool.template, "the size changes no pod"


def test_what_is_fetched_ahead_changes_the_pod_and_who_claims_it_not():
    made = make_pool(known_pool(), {"smol": deployment()}, SETTINGS)
    assert why_not_claimable(template(), made.template) == ""
    assert made.pool.template != make_pool(known_pool(), {}, SETTINGS).pool.template


def test_a_standby_that_holds_a_model_is_told_what_the_deployments_own_worker_is_told():
    quantized = {"weights": "Int8"}
    smol = deployment(quantization=quantized)
    made = make_pool(known_pool(loadedModel="smol"), {"smol": smol}, SETTINGS)
    assert (made.pool.loaded_model, made.pool.why_not_loaded) == ("default/smol", "")
    (container,) = made.template["spec"]["containers"]
    held = container["args"][container["args"].index("--asleep") + 1 :]
    wanted = template(quantization=quantized)
    assert held == model_flags_of(wanted)
    assert why_not_claimable(wanted, made.template) == ""
    other = make_pool(known_pool(loadedModel="smol"), {"smol": deployment()}, SETTINGS)
    assert other.pool.template != made.pool.template, "a changed deployment replaces its standbys"


def test_says_why_standbys_hold_no_model():
    with_token = deployment(
        model={"source": "hf://a/b", "tokenSecretRef": {"name": "hub", "key": "t"}}
    )
    made = make_pool(known_pool(loadedModel="smol"), {"smol": with_token}, SETTINGS)
    assert made.pool.loaded_model == ""
    assert made.pool.why_not_loaded == (
        "spec.loadedModel smol claims no standby of this pool: its worker has the variable "
        "HF_TOKEN, and a standby has not; so they hold no model: name another one, or none"
    )
    none = make_pool(known_pool(loadedModel="smol"), {"smol": None}, SETTINGS)
    assert (none.pool.missing_models, none.pool.loaded_model) == (("smol",), "")


def test_a_claimed_pod_is_read_as_the_deployments_worker_and_as_its_pools():
    made = make_pool(known_pool(), {}, SETTINGS)
    name = f"gpus-{made.pool.template}-s0"
    pod = standby_pod(made, name, SETTINGS)
    pod["metadata"] |= {"uid": "u", "resourceVersion": "7"}
    pod["metadata"]["creationTimestamp"] = "2026-11-30T20:00:00Z"
    standby = read_standby(pod)
    assert standby is not None
    assert (standby.pool, standby.ordinal, standby.version) == ("default/gpus", 0, "7")
    assert standby.is_unclaimed
    assert observed_worker(pod) is None, "it is no deployment's yet"

    patch = claim_patch(standby, OWNER, "0123abcd", 2, 1000.0)["metadata"]
    assert (patch["uid"], patch["resourceVersion"]) == ("u", "7")
    pod["metadata"]["labels"] |= patch["labels"]
    pod["metadata"]["ownerReferences"] = patch["ownerReferences"]
    claimed, worker_ = read_standby(pod), observed_worker(pod)
    assert claimed is not None
    assert worker_ is not None
    assert (claimed.claimed_by, claimed.claimed_at) == ("default/smol", 1000.0)
    assert (worker_.revision, worker_.ordinal) == ("0123abcd", 2)
    assert (worker_.created, worker_.placed_at, worker_.started_at) == (1000.0,) * 3
    assert worker_.claimed_from == "default/gpus"


def test_the_flags_of_the_model_are_those_that_its_worker_has():
    problems, manifest = check_manifest(
        {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "smol"},
            "spec": {"model": {"source": "hf://owner/name"}},
        }
    )
    assert manifest is not None, problems
    assert model_flags_of(pod_template(manifest, SETTINGS)) == model_flags(manifest)

"""What each kind of source becomes in a worker's pod."""

from __future__ import annotations

from typing import Any

import pytest

from modelfleet_operator.api.model_deployment import Model, ModelDeployment
from modelfleet_operator.cluster.pods import PodSettings, pod_template
from modelfleet_operator.cluster.storage import Storage, storage


def stored(source: str = "hf://owner/name", **settings: Any) -> Storage:
    return storage(Model.model_validate({"source": source}), **settings)


def volume(seen: Storage, name: str) -> Any:
    return {v["name"]: {k: v[k] for k in v if k != "name"} for v in seen.volumes}.get(name)


def mount(seen: Storage, name: str) -> Any:
    return {m["name"]: m for m in seen.mounts}.get(name)


def variables(seen: Storage) -> dict[str, Any]:
    return {v["name"]: v.get("value", v.get("valueFrom")) for v in seen.environment}


@pytest.mark.parametrize("source", ["hf://a/b", "s3://bucket/a", "oci://r.example/a:v1"])
def test_what_is_fetched_goes_into_the_cache_and_needs_no_other_volume(source: str):
    seen = stored(source)
    assert seen.source == source
    assert [v["name"] for v in seen.volumes] == ["cache"]
    assert volume(seen, "cache") == {"emptyDir": {}}
    assert mount(seen, "cache") == {"name": "cache", "mountPath": "/var/cache/modelfleet"}
    assert variables(seen)["MODELFLEET_CACHE"] == "/var/cache/modelfleet"


def test_the_workers_of_a_node_share_its_cache_where_the_administrator_gives_one():
    shared = volume(stored(node_cache="/mnt/models"), "cache")
    assert shared == {"hostPath": {"path": "/mnt/models", "type": "Directory"}}


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("pvc://weights", "file:///models"),
        ("pvc://weights/", "file:///models"),
        ("pvc://weights/llama/8b/", "file:///models/llama/8b"),
        ("pvc://weights/a b", "file:///models/a%20b"),
    ],
)
def test_a_claim_is_mounted_read_only_and_the_worker_is_told_the_folder(source: str, told: str):
    seen = stored(source)
    claim = {"claimName": "weights", "readOnly": True}
    assert volume(seen, "model") == {"persistentVolumeClaim": claim}
    assert mount(seen, "model") == {"name": "model", "mountPath": "/models", "readOnly": True}
    assert seen.source == told


def test_a_folder_of_the_node_is_mounted_where_it_is():
    seen = stored("file:///mnt/a%20b")
    assert volume(seen, "model") == {"hostPath": {"path": "/mnt/a b", "type": "Directory"}}
    assert mount(seen, "model")["mountPath"] == "/mnt/a b"
    assert seen.source == "file:///mnt/a%20b"


def test_an_artifact_may_be_left_to_the_container_runtime():
    seen = stored("oci://r.example/smol:v1", image_volumes=True, pull_secrets=["pull"])
    assert volume(seen, "model") == {"image": {"reference": "r.example/smol:v1"}}
    assert seen.source == "file:///models"
    assert volume(seen, "pull-secrets") is None  # the kubelet uses them


def test_the_pods_pull_secrets_open_the_registry_of_its_model():
    seen = stored("oci://r.example/smol:v1", pull_secrets=["a", "b"])
    (first, second) = volume(seen, "pull-secrets")["projected"]["sources"]
    assert first == {
        "secret": {
            "name": "a",
            "items": [{"key": ".dockerconfigjson", "path": "a.json"}],
            "optional": True,
        }
    }
    assert second["secret"]["name"] == "b"
    assert variables(seen)["MODELFLEET_PULL_SECRETS"] == mount(seen, "pull-secrets")["mountPath"]
    assert volume(stored("hf://a/b", pull_secrets=["a"]), "pull-secrets") is None


def test_hub_settings_reach_workers_that_use_a_hub_and_no_others():
    settings = {"hub_endpoint": "http://hub.example", "offline": True}
    told = variables(stored(**settings))
    assert (told["HF_ENDPOINT"], told["HF_HUB_OFFLINE"]) == ("http://hub.example", "1")
    assert (
        not variables(stored("s3://bucket/a", **settings)).keys()
        & told.keys() - variables(stored()).keys()
    )


def pod_spec(settings: PodSettings, source: str, **template: Any) -> Any:
    manifest = ModelDeployment.model_validate(
        {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "smol", "namespace": "team", "uid": "owner"},
            "spec": {"model": {"source": source}, "podTemplate": {"spec": template}},
        }
    )
    return pod_template(manifest, settings)["spec"]


def test_the_pod_is_made_of_it():
    spec = pod_spec(PodSettings(image="w:1"), "pvc://weights/smol")
    assert [v["name"] for v in spec["volumes"]] == ["cache", "model", "tmp"]
    (container,) = spec["containers"]
    assert [m["name"] for m in container["volumeMounts"]] == ["cache", "model", "tmp"]
    assert "--source=file:///models/smol" in container["args"]


def test_pull_secrets_of_operator_and_template_both_open_the_models_registry():
    spec = pod_spec(
        PodSettings(image="w:1", image_pull_secrets=("ours",)),
        "oci://r.example/smol:v1",
        imagePullSecrets=[{"name": "theirs"}, {"name": "ours"}],
    )
    (volume,) = [v for v in spec["volumes"] if v["name"] == "pull-secrets"]
    assert [s["secret"]["name"] for s in volume["projected"]["sources"]] == ["ours", "theirs"]

"""Folders of the node in worker pods: read-only, and apart from the node's cache."""

from __future__ import annotations

from typing import Any

import pytest

from modelfleet_operator.api.model_deployment import ModelDeployment
from modelfleet_operator.cluster.pods import (
    PodSettings,
    pod_template,
    template_problems,
    template_refusal,
    worker_pod,
)
from modelfleet_operator.decisions.reasons import Reason

SETTINGS = PodSettings(image="worker:1", host_paths=("/mnt",), node_cache="/mnt/cache/models")
OWNER = {"name": "smol", "namespace": "team", "uid": "owner"}
READ_ONLY = {"readOnly": True, "recursiveReadOnly": "IfPossible"}


def deployment(source: str = "hf://owner/name", **spec: Any) -> ModelDeployment:
    return ModelDeployment.model_validate(
        {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "smol", "namespace": "team", "uid": "owner"},
            "spec": {"model": {"source": source}, "podTemplate": {"spec": spec}},
        }
    )


def mounting(container: str = "worker", path: str = "/mnt/data", **mount: Any) -> dict[str, Any]:
    """A podTemplate's spec with a folder of the node in a container."""
    asked = {"name": "data", "mountPath": "/data", **mount}
    return {
        "volumes": [{"name": "data", "hostPath": {"path": path}}],
        "containers": [{"name": container, "volumeMounts": [asked]}],
    }


def refusals(spec: dict[str, Any], source: str = "hf://owner/name") -> list[str]:
    found = template_problems(deployment(source, **spec), SETTINGS)
    assert {reason for reason, _ in found} <= {Reason.HOST_PATH_NOT_ALLOWED}
    return [sentence for _, sentence in found]


def mounts(template: dict[str, Any], container: str, volume: str) -> list[dict[str, Any]]:
    made = worker_pod(OWNER, template, revision="abc", ordinal=0)["spec"]
    (found,) = [c for c in made["containers"] if c["name"] == container]
    return [mount for mount in found["volumeMounts"] if mount["name"] == volume]


@pytest.mark.parametrize("container", ["worker", "side"])
def test_a_folder_of_the_node_is_read_only_where_nothing_is_said(container: str):
    template = pod_template(deployment(**mounting(container)), SETTINGS)
    asked = {"name": "data", "mountPath": "/data"}
    assert mounts(template, container, "data") == [{**asked, **READ_ONLY}]


def test_the_models_own_folder_is_read_only_in_every_container():
    sidecar = {"name": "side", "volumeMounts": [{"name": "model", "mountPath": "/m"}]}
    template = pod_template(deployment("file:///mnt/smol", containers=[sidecar]), SETTINGS)
    for container in ("worker", "side"):
        (mount,) = mounts(template, container, "model")
        assert mount.items() >= READ_ONLY.items()


@pytest.mark.parametrize(
    "wish",
    [
        {"readOnly": False},
        {"readOnly": True, "recursiveReadOnly": "Disabled"},
        {"mountPropagation": "HostToContainer"},
        {"mountPropagation": "Bidirectional"},
    ],
)
def test_a_wish_to_write_to_it_is_refused(wish: dict[str, Any]):
    (sentence,) = refusals(mounting(**wish))
    assert "volumeMounts[data]" in sentence
    assert "read-only" in sentence


@pytest.mark.parametrize(
    "kind", ["DirectoryOrCreate", "FileOrCreate", "Socket", "CharDevice", "BlockDevice"]
)
def test_the_kubelet_makes_nothing_on_the_node_and_nothing_talks_to_it(kind: str):
    spec = mounting()
    spec["volumes"][0]["hostPath"]["type"] = kind
    (sentence,) = refusals(spec)
    assert kind in sentence


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/mnt/data", True),
        ("/mnt/cache2", True),
        ("/mnt/cache/other", True),
        ("/mnt/cache/models", False),
        ("/mnt/cache/models/remote/a", False),
        ("/mnt/cache", False),
        ("/mnt", False),
        ("/mnt/data/../cache/models", False),
        ("//mnt/cache", False),
        ("/mnt//cache/./models/", False),
    ],
)
def test_no_volume_meets_the_nodes_cache(path: str, allowed: bool):
    assert (refusals(mounting(path=path)) == []) is allowed
    assert (refusals({}, source=f"file:///{path.lstrip('/')}") == []) is allowed


def test_only_the_worker_has_the_nodes_cache():
    sidecar = {"name": "side", "volumeMounts": [{"name": "cache", "mountPath": "/c"}]}
    (sentence,) = refusals({"containers": [sidecar]})
    assert "containers[side].volumeMounts[cache]" in sentence
    own_cache = PodSettings(image="worker:1")
    assert template_problems(deployment(containers=[sidecar]), own_cache) == []
    (mount,) = mounts(pod_template(deployment(), SETTINGS), "worker", "cache")
    assert "readOnly" not in mount


def kept(**mount: Any) -> dict[str, Any]:
    """A template as an earlier version made it."""
    template = pod_template(deployment(**mounting()), SETTINGS)
    (worker,) = template["spec"]["containers"]
    worker["volumeMounts"][-1] = {"name": "data", "mountPath": "/data", **mount}
    return template


def test_a_kept_revision_gets_its_folders_read_only():
    assert template_refusal(kept(), SETTINGS) == ""
    assert mounts(kept(), "worker", "data")[0].items() >= READ_ONLY.items()


def test_a_kept_revision_that_would_write_to_the_node_is_not_started_again():
    assert "read-only" in template_refusal(kept(readOnly=False), SETTINGS)


def test_a_kept_revision_has_no_cache_of_other_days():
    before = pod_template(deployment(), SETTINGS)
    assert template_refusal(before, SETTINGS) == ""
    today = PodSettings(image="worker:1", host_paths=("/mnt",), node_cache="/mnt/other")
    assert "/mnt/cache/models" in template_refusal(before, today)

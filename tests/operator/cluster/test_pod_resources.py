"""What workers request: the podTemplate's word, the chart's, or a guess by the model's name."""

from __future__ import annotations

from typing import Any

import pytest

from modelfleet_operator.api.model_deployment import ModelDeployment
from modelfleet_operator.cluster.accelerators import placed, read_class
from modelfleet_operator.cluster.pods import PodSettings, pod_template, worker_pod
from modelfleet_operator.cluster.resources import layered, read_resources
from modelfleet_operator.errors import StartError

OWNER = {"name": "smol", "namespace": "team", "uid": "owner"}


def resources(
    source: str = "hf://owner/Llama-3.1-8B",
    settings: PodSettings | None = None,
    worker: dict[str, Any] | None = None,
    pod: dict[str, Any] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """Of the worker's container."""
    given = {"containers": [{"name": "worker", **(worker or {})}], **(pod or {})}
    manifest = ModelDeployment.model_validate(
        {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "smol", "namespace": "team", "uid": "owner"},
            "spec": {"model": {"source": source}, "podTemplate": {"spec": given}, **spec},
        }
    )
    template = pod_template(manifest, settings or PodSettings(image="worker:1"))
    made = worker_pod(OWNER, template, revision="abc", ordinal=0)
    found: dict[str, Any] = made["spec"]["containers"][0]["resources"]
    return found


def test_a_worker_is_never_best_effort():
    assert resources() == {"requests": {"cpu": "500m", "memory": "18176Mi"}}
    assert resources("hf://owner/SmolLM2-135M")["requests"]["memory"] == "2560Mi"
    assert resources("hf://owner/name")["requests"]["memory"] == "3328Mi"


@pytest.mark.parametrize(
    "source",
    [
        "hf://meta-llama/Llama-3.1-8B-Instruct",
        "s3://models/llama-3.1-8b",
        "pvc://weights/llama/8b",
        "file:///mnt/models/llama%208b",
        "oci://registry.example.com:5000/models/llama:8b",
        f"oci://registry-70b.example.com/models/llama-8b@sha256:{'7b' * 32}",
    ],
)
def test_every_kind_of_source_tells_its_size_by_its_name(source: str):
    assert resources(source)["requests"]["memory"] == "18176Mi"


@pytest.mark.parametrize(
    ("spec", "memory"),
    [
        ({"quantization": {"weights": "Int8"}}, "11008Mi"),
        ({"quantization": {"weights": "Int4"}}, "6912Mi"),
        ({"model": {"source": "hf://o/L-8B", "dtype": "Float32"}}, "34304Mi"),
        ({"engine": {"kvCacheMemory": "4Gi"}}, "21248Mi"),
    ],
)
def test_what_the_spec_says_of_memory_counts(spec: dict[str, Any], memory: str):
    assert resources(**spec)["requests"]["memory"] == memory


def test_a_worker_that_only_takes_time_asks_for_next_to_nothing():
    little = {"requests": {"cpu": "10m", "memory": "128Mi"}}
    assert resources(settings=PodSettings(image="w", device="paced")) == little
    chosen = {"env": [{"name": "MODELFLEET_DEVICE", "value": "paced"}]}
    assert resources(worker=chosen) == little


def test_the_podtemplate_decides_before_the_chart_and_the_chart_before_the_guess():
    chart = PodSettings(image="w", resources={"requests": {"cpu": "4", "memory": "9Gi"}})
    assert resources(settings=chart)["requests"] == {"cpu": "4", "memory": "9Gi"}
    own = {"resources": {"requests": {"memory": "3Gi"}}}
    assert resources(settings=chart, worker=own)["requests"] == {"cpu": "4", "memory": "3Gi"}


def test_no_request_of_ours_meets_a_limit_of_theirs():
    own = {"resources": {"limits": {"memory": "2Gi"}}}
    assert resources(worker=own) == {"limits": {"memory": "2Gi"}, "requests": {"cpu": "500m"}}
    whole = {"resources": {"limits": {"memory": "2Gi"}}}
    assert resources(pod=whole) == {"requests": {"cpu": "500m"}}


def test_claims_of_devices_stay():
    assert layered({"claims": [{"name": "gpu"}]}, {"requests": {"cpu": "1"}}) == {
        "claims": [{"name": "gpu"}],
        "requests": {"cpu": "1"},
    }


def test_an_accelerator_stands_beside_them():
    manifest = ModelDeployment.model_validate(
        {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "smol"},
            "spec": {"model": {"source": "hf://o/SmolLM2-135M"}},
        }
    )
    template = pod_template(manifest, PodSettings(image="w"))
    made = worker_pod(OWNER, template, revision="abc", ordinal=0)
    gpu = read_class(
        {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "AcceleratorClass",
            "metadata": {"name": "h100", "generation": 1},
            "spec": {"resource": {"name": "nvidia.com/gpu"}},
        }
    )
    assert gpu is not None
    (worker,) = placed(made, gpu)["spec"]["containers"]
    assert worker["resources"]["requests"].keys() == {"cpu", "memory", "nvidia.com/gpu"}


def test_the_flag_is_a_containers_resources_with_quantities_as_yaml_has_them():
    assert read_resources('{"requests": {"cpu": 2, "memory": "8Gi"}}', "--r") == {
        "requests": {"cpu": "2", "memory": "8Gi"}
    }
    assert read_resources("", "--r") == {}


@pytest.mark.parametrize("wrong", ["no", "[]", '{"request": {}}', '{"limits": []}'])
def test_another_flag_is_refused_by_name(wrong: str):
    with pytest.raises(StartError, match="--r: expected JSON"):
        read_resources(wrong, "--r")

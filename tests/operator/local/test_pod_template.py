"""What a podTemplate means on one machine."""

from __future__ import annotations

from typing import Any

import pytest

from modelfleet_operator.api.model_deployment import ModelDeployment
from modelfleet_operator.errors import ManifestError
from modelfleet_operator.local.pod_template import environment, ignored


def deployment(**template: Any) -> ModelDeployment:
    return ModelDeployment.model_validate(
        {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "smol"},
            "spec": {"model": {"source": "hf://owner/name"}, "podTemplate": template},
        }
    )


def test_the_workers_plain_environment_counts():
    variables = [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {}}}]
    containers = [{"name": "worker", "env": variables}, {"name": "side", "env": [{"name": "C"}]}]
    manifest = deployment(spec={"containers": containers, "nodeSelector": {"zone": "a"}})
    assert environment(manifest) == {"A": "1"}
    assert ignored(manifest) == [
        "spec.containers[side]",
        "spec.containers[worker].env without a value",
        "spec.nodeSelector",
    ]


def test_without_a_template_there_is_nothing_to_say():
    assert environment(deployment()) == {}
    assert ignored(deployment()) == []


@pytest.mark.parametrize(
    "containers",
    [
        "worker",
        ["worker"],
        [{"name": "worker", "env": "A=1"}],
        [{"name": "worker", "env": [{"name": "A", "value": 1}]}],
        [{"name": "worker", "env": [{"value": "1"}]}],
        [{"name": "worker", "env": [{"name": "A=B", "value": "1"}]}],
    ],
)
def test_another_shape_is_an_error_with_its_place(containers: Any):
    with pytest.raises(ManifestError, match=r"podTemplate\.spec\.containers"):
        environment(deployment(spec={"containers": containers}))

"""What a podTemplate means on one machine."""

from __future__ import annotations

from typing import Any

import pytest

from modelfleet_operator.api.model_deployment import ModelDeployment
from modelfleet_operator.api.other_kinds import Reference, Values
from modelfleet_operator.errors import ManifestError
from modelfleet_operator.local.pod_template import environment, ignored, logins, references

NOTHING = Values()
KEYS = Values(
    {
        Reference("Secret", "default", "keys"): {"id": "k", "secret": "s"},
        Reference("ConfigMap", "default", "settings"): {"REGION": "eu", "B": "of the map"},
        Reference("Secret", "default", "login"): {".dockerconfigjson": '{"auths": {}}'},
        Reference("Secret", "other", "keys"): {"id": "of another namespace"},
    }
)


def deployment(source: str = "hf://owner/name", **template: Any) -> ModelDeployment:
    return ModelDeployment.model_validate(
        {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "smol"},
            "spec": {"model": {"source": source}, "podTemplate": template},
        }
    )


def with_worker(**worker: Any) -> ModelDeployment:
    return deployment(spec={"containers": [{"name": "worker", **worker}]})


def test_the_workers_plain_environment_counts():
    variables = [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {}}}]
    containers = [{"name": "worker", "env": variables}, {"name": "side", "env": [{"name": "C"}]}]
    manifest = deployment(spec={"containers": containers, "nodeSelector": {"zone": "a"}})
    assert environment(manifest, NOTHING) == {"A": "1"}
    assert ignored(manifest, NOTHING) == [
        "spec.containers[side]",
        "spec.containers[worker].env without a value",
        "spec.nodeSelector",
    ]


def test_secrets_and_config_maps_of_the_files_are_used_where_the_template_refers_to_them():
    manifest = with_worker(
        envFrom=[
            {"configMapRef": {"name": "settings"}},
            {"prefix": "AWS_", "secretRef": {"name": "keys"}},
        ],
        env=[
            {"name": "ID", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "id"}}},
            {"name": "B", "value": "plain"},
        ],
    )
    assert environment(manifest, KEYS) == {
        "REGION": "eu",
        "AWS_id": "k",
        "AWS_secret": "s",
        "ID": "k",
        "B": "plain",
    }
    assert ignored(manifest, KEYS) == []
    assert {str(r) for r in references(manifest)} == {
        "Secret default/keys",
        "ConfigMap default/settings",
    }


def test_the_hubs_token_comes_from_the_secret_that_the_model_names():
    manifest = ModelDeployment.model_validate(
        {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "smol"},
            "spec": {
                "model": {
                    "source": "hf://owner/name",
                    "tokenSecretRef": {"name": "keys", "key": "secret"},
                }
            },
        }
    )
    assert environment(manifest, KEYS) == {"HF_TOKEN": "s"}


def test_what_no_file_has_is_said():
    missing = {"secretKeyRef": {"name": "absent", "key": "id"}}
    manifest = with_worker(
        env=[{"name": "ID", "valueFrom": missing}], envFrom=[{"secretRef": {"name": "gone"}}]
    )
    assert environment(manifest, KEYS) == {}
    assert ignored(manifest, KEYS) == [
        "Secret default/absent, which no file has",
        "Secret default/gone, which no file has",
        "spec.containers[worker].env without a value",
    ]


def test_pull_secrets_open_the_registry_of_the_model():
    spec = {"imagePullSecrets": [{"name": "login"}, {"name": "absent"}]}
    assert logins(deployment("oci://host/a:1", spec=spec), KEYS) == ['{"auths": {}}']
    assert logins(deployment(spec=spec), KEYS) == [], "another source has no registry"


def test_without_a_template_there_is_nothing_to_say():
    assert environment(deployment(), NOTHING) == {}
    assert ignored(deployment(), NOTHING) == []


@pytest.mark.parametrize(
    "containers",
    [
        "worker",
        ["worker"],
        [{"name": "worker", "env": "A=1"}],
        [{"name": "worker", "env": [{"name": "A", "value": 1}]}],
        [{"name": "worker", "env": [{"name": "A", "value": "a\0b"}]}],
        [{"name": "worker", "env": [{"value": "1"}]}],
        [{"name": "worker", "env": [{"name": "A=B", "value": "1"}]}],
        [{"name": "worker", "env": [{"name": "A", "valueFrom": "a"}]}],
        [{"name": "worker", "envFrom": [{"prefix": "A=", "secretRef": {"name": "keys"}}]}],
    ],
)
def test_another_shape_is_an_error_with_its_place(containers: Any):
    with pytest.raises(ManifestError, match=r"podTemplate\.spec\.containers"):
        environment(deployment(spec={"containers": containers}), KEYS)

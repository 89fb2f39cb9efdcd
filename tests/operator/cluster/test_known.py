"""A ModelDeployment as the index holds it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from modelfleet_operator.cluster.known import Known, read_deployment
from modelfleet_operator.cluster.pods import PodSettings

SETTINGS = PodSettings(image="worker:1")


def a_body(generation: int = 1, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {
            "name": "smol",
            "namespace": "default",
            "uid": "one",
            "generation": generation,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"model": {"source": "hf://org/model"}, **spec},
    }


def edited(before: Known, **spec: Any) -> tuple[Known, Known]:
    """Read with what was known before it, and without."""
    body = a_body(2, **spec)
    return read_deployment(copy.deepcopy(body), SETTINGS, before), read_deployment(body, SETTINGS)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"scaling": {"minReplicas": 3, "maxReplicas": 9}}, id="scaled"),
        pytest.param({"scaling": {"mode": "External", "replicas": 2}}, id="by another scaler"),
        pytest.param({}, id="its scaling removed"),
        pytest.param({"scaling": {"maxReplicas": -1}}, id="invalid"),
        pytest.param({"engine": {"maxSequences": 8}}, id="another revision"),
        pytest.param({"podTemplate": {"spec": {"hostNetwork": True}}}, id="not allowed"),
    ],
)
def test_what_was_known_before_changes_nothing_of_what_is_read(spec: dict[str, Any]):
    before = read_deployment(a_body(scaling={"minReplicas": 2}), SETTINGS)
    known, fresh = edited(before, **spec)
    assert known == fresh


def test_only_scaling_keeps_the_revision_without_making_the_pod_again():
    before = read_deployment(a_body(scaling={"minReplicas": 2}), SETTINGS)
    assert before.makes_the_same_pods(a_body(2, scaling={"minReplicas": 3}))
    assert not before.makes_the_same_pods(a_body(2, placement={"accelerators": ["h100"]}))
    another = a_body(2, scaling={"minReplicas": 3})
    another["metadata"]["uid"] = "another of its name"
    assert not before.makes_the_same_pods(another)


def test_an_error_of_its_pods_stays_when_it_is_scaled():
    refused = {"podTemplate": {"spec": {"hostNetwork": True}}}
    before = read_deployment(a_body(**refused), SETTINGS)
    assert before.error
    known, fresh = edited(before, scaling={"minReplicas": 3}, **refused)
    assert known == fresh
    assert known.error == before.error

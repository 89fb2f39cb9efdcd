"""How pods ask for spot or on demand, beside what classes and podTemplates ask of nodes."""

from __future__ import annotations

from typing import Any

import pytest

from modelfleet_operator.cluster.capacity import ZONE, rather_elsewhere, with_capacity
from modelfleet_operator.cluster.nodes import on_node, read_node
from modelfleet_operator.decisions.capacity import CAPACITY_LABELS, ON_DEMAND, SPOT
from simulated_fleet import worker

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
SPOT_NODES = [{known.key: known.spot} for known in CAPACITY_LABELS]
OTHER_NODES = [{known.key: known.on_demand} for known in CAPACITY_LABELS if known.on_demand] + [{}]


def pod(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "smol-abc-0"}, "spec": {"containers": [], **spec}}


def fits(made: dict[str, Any], labels: dict[str, str]) -> bool:
    """As the scheduler reads a required node affinity: terms are or, expressions are and."""
    terms = made["spec"]["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]
    return any(all(holds(e, labels) for e in term["matchExpressions"]) for term in terms)


def holds(expression: dict[str, Any], labels: dict[str, str]) -> bool:
    is_in = labels.get(expression["key"]) in expression["values"]
    return is_in if expression["operator"] == "In" else not is_in


@pytest.mark.parametrize("labels", SPOT_NODES, ids=str)
def test_spot_of_each_provider(labels: dict[str, str]):
    made = with_capacity(pod(), SPOT)
    assert fits(made, labels)
    assert not fits(with_capacity(pod(), ON_DEMAND), labels)
    ((key, value),) = labels.items()
    taint = {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
    assert taint in made["spec"]["tolerations"]
    assert made["metadata"]["labels"]["modelfleet.dev/capacity"] == "Spot"


@pytest.mark.parametrize("labels", OTHER_NODES, ids=str)
def test_on_demand_of_each_provider_and_of_none(labels: dict[str, str]):
    made = with_capacity(pod(), ON_DEMAND)
    assert fits(made, labels)
    assert not fits(with_capacity(pod(), SPOT), labels)
    assert "tolerations" not in made["spec"]


def test_what_a_pod_template_asks_of_nodes_holds_in_each_case():
    zone = {"key": "zone", "operator": "In", "values": ["a"]}
    arch = {"key": "arch", "operator": "In", "values": ["arm64"]}
    given = {
        "nodeAffinity": {
            REQUIRED: {
                "nodeSelectorTerms": [{"matchExpressions": [zone]}, {"matchExpressions": [arch]}]
            }
        },
        "podAffinity": {"x": "y"},
    }
    made = with_capacity(pod(affinity=given), SPOT)
    gke = {"cloud.google.com/gke-spot": "true"}
    assert fits(made, gke | {"zone": "a"})
    assert fits(made, gke | {"arch": "arm64"})
    assert not fits(made, gke)
    assert not fits(made, {"zone": "a"})
    assert made["spec"]["affinity"]["podAffinity"] == {"x": "y"}
    assert given["nodeAffinity"][REQUIRED]["nodeSelectorTerms"][0] == {"matchExpressions": [zone]}


def test_zones_are_avoided_not_forbidden():
    made = rather_elsewhere(with_capacity(pod(), SPOT), ZONE, ("eu-1a",))
    (rather,) = made["spec"]["affinity"]["nodeAffinity"][PREFERRED]
    assert rather["preference"]["matchExpressions"] == [
        {"key": "topology.kubernetes.io/zone", "operator": "NotIn", "values": ["eu-1a"]}
    ]


def test_a_worker_knows_what_its_node_says():
    body = {
        "metadata": {
            "name": "n1",
            "labels": {"topology.kubernetes.io/zone": "eu-1a", "cloud.google.com/gke-spot": "true"},
        },
        "spec": {"unschedulable": True},
    }
    seen = on_node(worker(), read_node(body, 0.0), 0.0)
    assert (seen.capacity, seen.zone) == (SPOT, "eu-1a")
    assert seen.notice is not None
    assert seen.notice.kind == "Cordon"
    assert on_node(worker(capacity=ON_DEMAND), None, 0.0).capacity == ON_DEMAND

"""How a worker's pod asks for spot or on demand: by what every usual provider writes on its nodes.

The table is `decisions.capacity.CAPACITY_LABELS`; docs/spot.md shows it.
"""

from __future__ import annotations

import copy
from typing import Any

from ..decisions.capacity import CAPACITY_LABELS, SPOT

CAPACITY = "modelfleet.dev/capacity"  # label: Spot or OnDemand, what the pod was made for
HOST = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def with_capacity(pod: dict[str, Any], capacity: str) -> dict[str, Any]:
    """The pod on nodes of this capacity; what a podTemplate or a class asks of nodes holds, too.

    Spot: one provider's label must say so, and its taint is tolerated. On demand: none may say
    spot, and nodes without any such label are on demand.
    """
    pod = copy.deepcopy(pod)
    metadata, spec = pod["metadata"], pod["spec"]
    metadata.setdefault("labels", {})[CAPACITY] = capacity
    affinity = spec.setdefault("affinity", {}).setdefault("nodeAffinity", {})
    given = affinity.get(_REQUIRED, {}).get("nodeSelectorTerms") or [{}]
    terms = [_both(term, ours) for ours in _terms(capacity) for term in given]
    affinity[_REQUIRED] = {"nodeSelectorTerms": terms}
    if capacity == SPOT:
        spec["tolerations"] = [*spec.get("tolerations", ()), *_tolerations()]
    return pod


def rather_elsewhere(pod: dict[str, Any], label: str, values: tuple[str, ...]) -> dict[str, Any]:
    """The pod, preferably on nodes without these values: no must, or it might find none."""
    if not values:
        return pod
    pod = copy.deepcopy(pod)
    affinity = pod["spec"].setdefault("affinity", {}).setdefault("nodeAffinity", {})
    elsewhere = {"key": label, "operator": "NotIn", "values": list(values)}
    rather = {"weight": 100, "preference": {"matchExpressions": [elsewhere]}}
    affinity[_PREFERRED] = [*affinity.get(_PREFERRED, ()), rather]
    return pod


def _terms(capacity: str) -> list[dict[str, Any]]:
    """Any of them is enough, as Kubernetes reads nodeSelectorTerms."""
    if capacity == SPOT:
        return [
            {"matchExpressions": [{"key": known.key, "operator": "In", "values": [known.spot]}]}
            for known in CAPACITY_LABELS
        ]
    return [
        {
            "matchExpressions": [
                {"key": known.key, "operator": "NotIn", "values": [known.spot]}
                for known in CAPACITY_LABELS
            ]
        }
    ]


def _both(term: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    expressions = [*term.get("matchExpressions", ()), *ours["matchExpressions"]]
    return {**term, "matchExpressions": expressions}


def _tolerations() -> list[dict[str, Any]]:
    return [
        {"key": known.key, "operator": "Equal", "value": known.spot, "effect": "NoSchedule"}
        for known in CAPACITY_LABELS
    ]

"""Workers of a part of a device close together, workers of whole devices far apart.

Both are wishes: a scheduler that cannot fulfil them places the pod all the same.
"""

from __future__ import annotations

import copy
from typing import Any

from .accelerators import ACCELERATOR, KnownClass
from .capacity import HOST, ZONE
from .pods import DEPLOYMENT

_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def arranged(pod: dict[str, Any], known: KnownClass, *, spread: bool) -> dict[str, Any]:
    """The pod near others of a class of fractions, or (`spread`) its siblings in other zones.

    What a podTemplate says of either holds beside it.
    """
    if known.spec.fraction < 1:
        return _packed(pod, known.name)
    return _spread(pod) if spread else pod


def _packed(pod: dict[str, Any], class_: str) -> dict[str, Any]:
    """Rather on a node where workers of this class are, of any deployment: devices fill up."""
    pod = copy.deepcopy(pod)
    affinity = pod["spec"].setdefault("affinity", {}).setdefault("podAffinity", {})
    near = {
        "weight": 50,
        "podAffinityTerm": {
            "topologyKey": HOST,
            "labelSelector": {"matchLabels": {ACCELERATOR: class_}},
            "namespaceSelector": {},
        },
    }
    affinity[_PREFERRED] = [*affinity.get(_PREFERRED, ()), near]
    return pod


def _spread(pod: dict[str, Any]) -> dict[str, Any]:
    pod = copy.deepcopy(pod)
    deployment = pod["metadata"]["labels"][DEPLOYMENT]
    constraint = {
        "maxSkew": 1,
        "topologyKey": ZONE,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {DEPLOYMENT: deployment}},
    }
    given = pod["spec"].get("topologySpreadConstraints", ())
    # Only one of a pod's constraints may name a topology with the same effect.
    is_said = any(
        (c.get("topologyKey"), c.get("whenUnsatisfiable")) == (ZONE, "ScheduleAnyway")
        for c in given
    )
    if not is_said:
        pod["spec"]["topologySpreadConstraints"] = [*given, constraint]
    return pod

"""AcceleratorClasses: how the operator reads them, and what they lay under a worker's pod."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from ..api.accelerator_class import AcceleratorSpec
from ..api.manifests import observed_class
from ..decisions.observed import Accelerator
from ..views import class_view
from .pod_problems import WORKER

ACCELERATOR = "modelfleet.dev/accelerator"  # label: name of the class
ACCELERATOR_GENERATION = "modelfleet.dev/accelerator-generation"  # annotation

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class KnownClass:
    """An AcceleratorClass as the index holds it."""

    name: str
    generation: int
    spec: AcceleratorSpec
    view: Accelerator  # made once: each reconcile of each deployment reads all classes

    def seen(self) -> Accelerator:
        """As decisions see it."""
        return self.view


def read_class(body: Mapping[str, Any]) -> KnownClass | None:
    """None for one that its CRD should have refused; the log says why."""
    problems, found = observed_class(body)
    if found is None:
        name = body["metadata"]["name"]
        log.warning("this AcceleratorClass is unusable", name=name, error="; ".join(problems))
        return None
    generation = found.metadata.generation
    view = class_view(found.spec, generation)
    return KnownClass(found.metadata.name, generation, found.spec, view)


def placed(pod: dict[str, Any], known: KnownClass) -> dict[str, Any]:
    """The pod on nodes of this class; what a podTemplate asks of nodes holds beside it."""
    pod = copy.deepcopy(pod)
    metadata, spec = pod["metadata"], pod["spec"]
    metadata.setdefault("labels", {})[ACCELERATOR] = known.name
    metadata.setdefault("annotations", {})[ACCELERATOR_GENERATION] = str(known.generation)
    if known.spec.node_selector:
        spec["nodeSelector"] = {**spec.get("nodeSelector", {}), **known.spec.node_selector}
    if known.spec.tolerations:
        taints = [t.model_dump(by_alias=True, exclude_none=True) for t in known.spec.tolerations]
        spec["tolerations"] = [*spec.get("tolerations", ()), *taints]
    if known.spec.resource is not None:
        (worker,) = [c for c in spec["containers"] if c["name"] == WORKER]
        count = str(known.spec.resource.count)
        for bound in ("requests", "limits"):  # extended resources cannot be overcommitted
            worker.setdefault("resources", {}).setdefault(bound, {})[known.spec.resource.name] = (
                count
            )
    return pod

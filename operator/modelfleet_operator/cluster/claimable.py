"""Whether a standby is as good as a deployment's own pod: its template is compared with theirs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..api.formats import parse_amount
from .observing import Object
from .pod_problems import WORKER

PRELOAD = "--preload"  # the first of a standby's flags that a worker with a model lacks
# What a deployment's container may ask for less of than the standby has.
_ORDERED = ("cpu", "memory")


def model_flags_of(template: Object) -> list[str]:
    """The flags by which a worker of this template knows its model."""
    args: list[str] = _worker_of(template)["args"]
    return args[len(_bare_flags(args)) :]


def why_not_claimable(template: Object, standby: Object) -> str:
    """What of a deployment's pod a standby's has not; empty: it is as good.

    Its rights, Secrets, volumes and settings must be those that the deployment's own pod would
    have: nothing of a pod that runs can be changed.
    """
    return next(_differences(template, standby), "")


def _differences(template: Object, standby: Object) -> Iterator[str]:
    wanted, there = template["spec"], standby["spec"]
    for field in ("labels", "annotations"):
        if template["metadata"].get(field):
            yield f"spec.podTemplate.metadata.{field} are set, and a standby has none of them"
    for volume in _lacking(wanted, there, "volumes"):
        yield f"its pod has the volume {volume}, and a standby has not"
    yield from _of_the_worker(_worker_of(template), _worker_of(standby))
    for container in (c["name"] for c in wanted["containers"] if c["name"] != WORKER):
        yield f"its pod has the container {container}, and a standby has not"
    for field in _other_fields(wanted, there, {"containers", "volumes"}):
        yield f"its pod's {field} is not that of a standby"


def _of_the_worker(wanted: Object, there: Object) -> Iterator[str]:
    for variable in _lacking(wanted, there, "env"):
        yield f"its worker has the variable {variable}, and a standby has not"
    for volume in _lacking(wanted, there, "volumeMounts"):
        yield f"its worker mounts the volume {volume}, and a standby does not"
    if short := _too_small(wanted.get("resources", {}), there.get("resources", {})):
        yield short
    if _bare_flags(wanted["args"]) != _bare_flags(there["args"]):
        yield "its worker has other flags than a standby"
    for field in _other_fields(wanted, there, {"env", "volumeMounts", "resources", "args"}):
        yield f"its worker's {field} is not that of a standby"


def _lacking(wanted: Object, there: Object, field: str) -> list[str]:
    """Names of the entries of a list that the standby's has not."""
    given = there.get(field) or ()
    return [str(entry["name"]) for entry in wanted.get(field) or () if entry not in given]


def _other_fields(wanted: Object, there: Object, compared: set[str]) -> list[str]:
    fields = sorted((wanted.keys() | there.keys()) - compared)
    return [field for field in fields if wanted.get(field) != there.get(field)]


def _bare_flags(args: Sequence[str]) -> list[str]:
    """Those that say nothing about a model."""
    return list(itertools.takewhile(lambda flag: not flag.startswith(("--model=", PRELOAD)), args))


def _too_small(wanted: Object, there: Object) -> str:
    """What is too small, or cannot be compared; empty: nothing."""
    requests, has = wanted.get("requests", {}), there.get("requests", {})
    for name in _ORDERED:
        asked, given = parse_amount(requests.get(name, "0")), parse_amount(has.get(name, "0"))
        if asked is None or given is None or asked > given:
            return (
                f"its worker requests {requests[name]} of {name}, and a standby has "
                f"{has.get(name, 0)}"
            )
    for name in sorted(requests.keys() - set(_ORDERED)):
        if requests[name] != has.get(name):
            return f"its worker requests {name}, and a standby does not"
    if {**wanted, "requests": {}} != {**there, "requests": {}}:
        return "its worker's limits are not those of a standby"
    return ""


def _worker_of(template: Mapping[str, Any]) -> Object:
    found: Object = next(c for c in template["spec"]["containers"] if c["name"] == WORKER)
    return found

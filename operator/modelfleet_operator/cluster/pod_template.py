"""spec.podTemplate: what a user lays under the worker pods, and what is refused of it.

What Modelfleet sets itself is refused rather than dropped in silence, and so is what reaches the
node (pod_security.py, host_folders.py). All the rest is for the API server to judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kubernetes.aio import client
from pydantic import ValidationError

from ..api.worker_spec import PodTemplate
from ..decisions.reasons import Reason
from .environment import OWN, Variable, under
from .host_folders import HostFolders, read_only
from .pod_problems import WORKER
from .pod_security import POD_FIELDS, annotation_findings, findings

HERE = "spec.podTemplate"
OWN_PREFIXES = ("modelfleet.dev/", "app.kubernetes.io/")  # of labels and annotations

Problem = tuple[Reason, str]

# Of the container `worker` a user may say these; the rest is ours.
_WORKER_FIELDS = frozenset(
    {"name", "env", "envFrom", "resources", "volumeMounts", "volumeDevices", "securityContext"}
    | {"imagePullPolicy", "resizePolicy", "lifecycle"}
)
_POD_FIELDS_OF_OURS = frozenset(
    {"restartPolicy", "terminationGracePeriodSeconds", "activeDeadlineSeconds"}
    | {"automountServiceAccountToken", "enableServiceLinks", "ephemeralContainers", "nodeName"}
)
_QUANTITY_MAPS = frozenset({"limits", "requests", "overhead"})
_QUANTITIES = frozenset({"quantity", "sizeLimit", "divisor"})


def problems(
    template: PodTemplate, ours: Mapping[str, Any], folders: HostFolders
) -> Iterator[Problem]:
    """What the user must correct, one sentence each; `ours` is the pod's spec without it."""
    metadata, spec = template.metadata, _normal(template.spec)
    for field in ("labels", "annotations"):
        for name in getattr(metadata, field) or {}:
            if name.startswith(OWN_PREFIXES):
                prefix = name.partition("/")[0]
                yield _wrong(f"{HERE}.metadata.{field}[{name}]: {prefix}/ is Modelfleet's own")
    for path, sentence in annotation_findings(metadata.annotations or {}):
        yield _wrong(f"{HERE}.metadata.annotations{path}: {sentence}")
    mistyped = list(_mistyped(spec))
    yield from mistyped
    if mistyped:
        return
    for field in sorted(spec.keys() - POD_FIELDS):
        set_by_us = "is set by Modelfleet" if field in _POD_FIELDS_OF_OURS else "is not allowed"
        yield _wrong(f"{HERE}.spec.{field} {set_by_us}: remove it")
    for path, sentence in findings(spec):
        yield _wrong(f"{HERE}.spec.{path}: {sentence}")
    taken = {volume["name"] for volume in ours["volumes"]}
    for volume in spec.get("volumes", ()):
        if volume["name"] in taken:
            where = f"{HERE}.spec.volumes[{volume['name']}]"
            yield _wrong(f"{where}: Modelfleet has a volume of this name: choose another")
    for sentence in folders.problems(spec):
        yield Reason.HOST_PATH_NOT_ALLOWED, f"{HERE}.spec.{sentence}"
    yield from _worker(spec, ours)


def lay_under(
    ours: Mapping[str, Any], template: PodTemplate, chart: Iterable[Variable] = ()
) -> dict[str, Any]:
    """The pod's template: the user's metadata, and the merged spec. Call `problems` first.

    `chart` is the environment that the administrator gives to every worker.
    """
    given = _normal(template.spec)
    spec = {**given, **ours}
    spec["securityContext"] = {**given.get("securityContext", {}), **ours["securityContext"]}
    for field in ("volumes", "imagePullSecrets", "initContainers"):
        joined = [*ours.get(field, ()), *_fresh(given.get(field, ()), ours.get(field, ()))]
        if joined:
            spec[field] = [_restricted(c) for c in joined] if field == "initContainers" else joined
    (worker,) = ours["containers"]
    others = [c for c in given.get("containers", ()) if c["name"] != WORKER]
    below: Mapping[str, Any] = next(
        (c for c in given.get("containers", ()) if c["name"] == WORKER), {}
    )
    spec["containers"] = [_merged(worker, below, chart), *(_restricted(c) for c in others)]
    metadata = {
        field: dict(values)
        for field in ("labels", "annotations")
        if (values := getattr(template.metadata, field))
    }
    return {"metadata": metadata, "spec": read_only(spec)}


def _wrong(sentence: str) -> Problem:
    return Reason.INVALID_SPEC, sentence


def _normal(value: Any, name: str = "") -> Any:
    """Without nulls, and with quantities as strings, which a manifest may write as numbers."""
    if isinstance(value, dict):
        kind = "quantity" if name in _QUANTITY_MAPS else ""
        return {key: _normal(v, kind or key) for key, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_normal(entry, name) for entry in value]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number and name in _QUANTITIES else value


def _mistyped(spec: Mapping[str, Any]) -> Iterator[Problem]:
    """What is no pod's spec, found by the client library's own types."""
    try:
        typed = client.V1PodSpec.from_dict({"containers": [], **spec})
    except ValidationError as error:
        for found in error.errors():
            # The library types each part by itself, so the path begins at that part.
            part = error.title.removeprefix("V1")
            path = ".".join(str(step) for step in (part, *found["loc"]))
            yield _wrong(f"{HERE}.spec: {path}: {found['msg'].lower()}{_shown(path, found)}")
        return
    except (AttributeError, TypeError):
        yield _wrong(f"{HERE}.spec: expected a pod's spec, as in core/v1")
        return
    known = typed.to_dict(serialize=True) if typed else {}
    for path in _unknown(spec, known):
        within = re.search(r"\.env(From)?\[\d+\]", path)
        if within:
            yield _wrong(
                f"{HERE}.spec{path[: within.end()]}: expected the fields of a container's env "
                "(name, value, valueFrom) or envFrom, found another"
            )
        else:
            yield _wrong(f"{HERE}.spec{path}: there is no such field")


def _shown(path: str, found: Any) -> str:
    """The wrong value, unless it is, or may hold, one of a container's variables."""
    value = found["input"]
    hides = re.search("Env|env|KeySelector|FieldSelector|ontainers$", path)
    return "" if hides or isinstance(value, dict | list) else f", found {value!r:.80}"


def _unknown(given: Any, known: Any) -> Iterator[str]:
    if isinstance(given, dict) and isinstance(known, dict):
        for name, value in given.items():
            if name not in known:
                yield f".{name}"
            else:
                yield from (f".{name}{path}" for path in _unknown(value, known[name]))
    elif isinstance(given, list) and isinstance(known, list):
        for place, (entry, typed) in enumerate(zip(given, known, strict=False)):
            yield from (f"[{place}]{path}" for path in _unknown(entry, typed))


def _worker(spec: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[Problem]:
    (worker,) = ours["containers"]
    names = OWN | {variable["name"] for variable in worker["env"]}
    for container in spec.get("containers", ()):
        if container["name"] != WORKER:
            continue
        where = f"{HERE}.spec.containers[{WORKER}]"
        for field in sorted(container.keys() - _WORKER_FIELDS):
            yield _wrong(f"{where}.{field} is set by Modelfleet: remove it")
        for variable in container.get("env", ()):
            if variable.get("name") in names:
                yield _wrong(f"{where}.env[{variable['name']}] is set by Modelfleet: remove it")
    if any(c["name"] == WORKER for c in spec.get("initContainers", ())):
        yield _wrong(f"{HERE}.spec.initContainers[{WORKER}]: this name is Modelfleet's own")


def _merged(
    ours: Mapping[str, Any], below: Mapping[str, Any], chart: Iterable[Variable]
) -> dict[str, Any]:
    """Our container over the user's part of it."""
    merged = {**below, **ours}
    merged["env"] = under(ours["env"], chart, below.get("env", []))
    merged["volumeMounts"] = [*ours["volumeMounts"], *below.get("volumeMounts", ())]
    context = below.get("securityContext", {})
    merged["securityContext"] = {**context, **ours["securityContext"]}
    return merged


def _restricted(container: Mapping[str, Any]) -> dict[str, Any]:
    """A container of the user with what `restricted` asks of each, where it is not said."""
    context = container.get("securityContext", {})
    capabilities = {**context.get("capabilities", {}), "drop": ["ALL"]}
    least = {"allowPrivilegeEscalation": False, "capabilities": capabilities}
    return {**container, "securityContext": {**context, **least}}


def _fresh(given: list[Any], ours: list[Any]) -> list[Any]:
    """Those that are not there yet, such as a pull secret that the operator's flags name, too."""
    return [entry for entry in given if entry not in ours]

"""spec.podTemplate: what a user lays under the worker pods, and what is refused of it.

What Modelfleet sets itself is refused rather than dropped in silence. What reaches the node is
refused, too: the right to write a ModelDeployment must not give more of a node than the
administrator gave. All the rest is for the API server to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kubernetes.aio import client
from pydantic import ValidationError

from ..api.model_deployment import PodTemplate
from ..decisions.reasons import Reason
from .pod_problems import WORKER

HERE = "spec.podTemplate"
OWN_PREFIX = "modelfleet.dev/"  # of labels and annotations

Problem = tuple[Reason, str]
Allows = Callable[[str], bool]  # whether pods may mount a folder of the node

# Of the container `worker` a user may say these; the rest is ours.
_WORKER_FIELDS = frozenset(
    {"name", "env", "envFrom", "resources", "volumeMounts", "volumeDevices", "securityContext"}
    | {"imagePullPolicy", "resizePolicy", "lifecycle"}
)
# Of the pod a user may say all but these.
_POD_FIELDS = frozenset(
    {"restartPolicy", "terminationGracePeriodSeconds", "activeDeadlineSeconds"}
    | {"automountServiceAccountToken", "enableServiceLinks", "ephemeralContainers", "nodeName"}
)
_QUANTITY_MAPS = frozenset({"limits", "requests", "overhead"})
_QUANTITIES = frozenset({"quantity", "sizeLimit", "divisor"})
_CAPABILITIES = frozenset(
    {"NET_BIND_SERVICE"}
)  # that the pod security standard `restricted` allows


def problems(template: PodTemplate, ours: Mapping[str, Any], allows: Allows) -> Iterator[Problem]:
    """What the user must correct, one sentence each; `ours` is the pod's spec without it."""
    metadata, spec = template.metadata, _normal(template.spec)
    for field in ("labels", "annotations"):
        for name in getattr(metadata, field) or {}:
            if name.startswith(OWN_PREFIX):
                yield _wrong(f"{HERE}.metadata.{field}[{name}]: {OWN_PREFIX} is Modelfleet's own")
    mistyped = list(_mistyped(spec))
    yield from mistyped
    if mistyped:
        return
    for field in sorted(_POD_FIELDS & spec.keys()):
        yield _wrong(f"{HERE}.spec.{field} is set by Modelfleet: remove it")
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield _wrong(f"{HERE}.spec.{field}: workers share nothing with their node: remove it")
    yield from _unsafe(spec.get("securityContext", {}), f"{HERE}.spec.securityContext")
    for field in ("containers", "initContainers"):
        for container in spec.get(field, ()):
            where = f"{HERE}.spec.{field}[{container.get('name')}]"
            yield from _unsafe(container.get("securityContext", {}), f"{where}.securityContext")
    yield from _volumes(spec.get("volumes", ()), ours, allows)
    yield from _worker(spec, ours)


def lay_under(ours: Mapping[str, Any], template: PodTemplate) -> dict[str, Any]:
    """The pod's template: the user's metadata, and the merged spec. Call `problems` first."""
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
    spec["containers"] = [_merged(worker, below), *(_restricted(c) for c in others)]
    metadata = {
        field: dict(values)
        for field in ("labels", "annotations")
        if (values := getattr(template.metadata, field))
    }
    return {"metadata": metadata, "spec": spec}


def host_paths(spec: Mapping[str, Any]) -> Iterator[str]:
    """Folders of the node that a pod's spec mounts."""
    for volume in spec.get("volumes", ()):
        if (path := volume.get("hostPath", {}).get("path")) is not None:
            yield str(path)


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
            yield _wrong(f"{HERE}.spec: {path}: {found['msg'].lower()}, found {found['input']!r}")
        return
    except (AttributeError, TypeError):
        yield _wrong(f"{HERE}.spec: expected a pod's spec, as in core/v1")
        return
    known = typed.to_dict(serialize=True) if typed else {}
    for path in _unknown(spec, known):
        yield _wrong(f"{HERE}.spec{path}: there is no such field")


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


def _unsafe(context: Mapping[str, Any], where: str) -> Iterator[Problem]:
    """What the pod security standard `restricted` does not allow."""
    seccomp = context.get("seccompProfile", {}).get("type")
    added = set(context.get("capabilities", {}).get("add", ()))
    refused = {
        "privileged": bool(context.get("privileged")),
        "allowPrivilegeEscalation": bool(context.get("allowPrivilegeEscalation")),
        "runAsNonRoot": context.get("runAsNonRoot") is False,
        "runAsUser": context.get("runAsUser") == 0,
        "procMount": context.get("procMount") not in (None, "Default"),
        "seccompProfile": seccomp == "Unconfined",
        "capabilities.add": not added <= _CAPABILITIES,
    }
    for field in (name for name, is_refused in refused.items() if is_refused):
        yield _wrong(
            f"{where}.{field}: the pod security standard `restricted` does not allow it: remove it"
        )


def _volumes(
    volumes: list[dict[str, Any]], ours: Mapping[str, Any], allows: Allows
) -> Iterator[Problem]:
    taken = {volume["name"] for volume in ours["volumes"]}
    for volume in volumes:
        where = f"{HERE}.spec.volumes[{volume['name']}]"
        if volume["name"] in taken:
            yield _wrong(f"{where}: Modelfleet has a volume of this name: choose another")
        for path in host_paths({"volumes": [volume]}):
            if not allows(path):
                yield (
                    Reason.HOST_PATH_NOT_ALLOWED,
                    f"{where}.hostPath: {path} is not under the node's folders that this operator "
                    "may mount: use another kind of volume, or ask for --host-path",
                )


def _worker(spec: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[Problem]:
    (worker,) = ours["containers"]
    names = {variable["name"] for variable in worker["env"]}
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


def _merged(ours: Mapping[str, Any], below: Mapping[str, Any]) -> dict[str, Any]:
    """Our container over the user's part of it."""
    merged = {**below, **ours}
    for field in ("env", "volumeMounts"):
        # Ours first: the user's variables may refer to them.
        merged[field] = [*ours[field], *below.get(field, ())]
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

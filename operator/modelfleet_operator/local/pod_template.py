"""What spec.podTemplate means where there are no pods: the worker's environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from ..api.model_deployment import ModelDeployment
from ..api.other_kinds import Reference, Values
from ..errors import ManifestError

WORKER = "worker"  # the container that is laid under Modelfleet's own
LOGIN: Final = ".dockerconfigjson"  # key of a Secret that opens registries
_KEY_REFS: Final[dict[str, Literal["Secret", "ConfigMap"]]] = {
    "secretKeyRef": "Secret",
    "configMapKeyRef": "ConfigMap",
}
_OBJECT_REFS: Final[dict[str, Literal["Secret", "ConfigMap"]]] = {
    "secretRef": "Secret",
    "configMapRef": "ConfigMap",
}


@dataclass(frozen=True, slots=True)
class _Source:
    """Where variables of the worker come from, besides plain values."""

    reference: Reference
    key: str = ""  # empty: every key is a variable
    variable: str = ""  # or, without `key`, what precedes each key's name


def environment(manifest: ModelDeployment, values: Values) -> dict[str, str]:
    """Variables of the worker; what no Secret or ConfigMap of the files has is left out.

    ManifestError for a template of another shape.
    """
    variables: dict[str, str] = {}
    for source in _sources(manifest):
        found = values.of(source.reference)
        if not source.key:
            variables |= {f"{source.variable}{key}": text for key, text in found.items()}
        elif source.key in found:
            variables[source.variable] = found[source.key]
    return variables | _plain(manifest)


def references(manifest: ModelDeployment) -> set[Reference]:
    """Secrets and ConfigMaps that it refers to."""
    named = {source.reference for source in _sources(manifest)}
    return named | {_secret(manifest, name) for name in _pull_secrets(manifest)}


def logins(manifest: ModelDeployment, values: Values) -> list[str]:
    """Docker configs of its pull secrets."""
    found = [values.of(_secret(manifest, name)) for name in _pull_secrets(manifest)]
    return [texts[LOGIN] for texts in found if LOGIN in texts]


def described(manifest: ModelDeployment) -> Any:
    """What of the template workers are started with, without the values of Secrets (JSON types).

    As on a cluster, another value of a Secret is no other revision.
    """
    worker = _worker(manifest)
    token = manifest.spec.model.token_secret_ref
    return [
        worker.get("env") or [],
        worker.get("envFrom") or [],
        _pull_secrets(manifest),
        [token.name, token.key] if token else [],
    ]


def _sources(manifest: ModelDeployment) -> Iterator[_Source]:
    """In the order of precedence, the strongest last."""
    namespace, worker = manifest.metadata.namespace, _worker(manifest)
    if token := manifest.spec.model.token_secret_ref:
        yield _Source(_secret(manifest, token.name), token.key, "HF_TOKEN")
    for entry in _objects(worker.get("envFrom"), f"{_where(manifest)}.envFrom"):
        for field, kind in _OBJECT_REFS.items():
            if name := _text(entry.get(field), "name"):
                prefix = _text(entry, "prefix")
                if not _is_name(prefix or "A"):
                    raise ManifestError(f"{_where(manifest)}.envFrom: not a prefix: {prefix!r}")
                yield _Source(Reference(kind, namespace, name), variable=prefix)
    for variable in _variables(manifest):
        name = variable["name"]
        for field, kind in _KEY_REFS.items():
            asked = (variable.get("valueFrom") or {}).get(field)
            if (owner := _text(asked, "name")) and (key := _text(asked, "key")):
                yield _Source(Reference(kind, namespace, owner), key, name)


def _plain(manifest: ModelDeployment) -> dict[str, str]:
    variables = {v["name"]: v["value"] for v in _variables(manifest) if "value" in v}
    for name, value in variables.items():
        if not isinstance(value, str) or "\0" in value:
            raise ManifestError(f"{_where(manifest)}.env: {name}: expected a string")
    return variables


def _variables(manifest: ModelDeployment) -> list[dict[str, Any]]:
    where = f"{_where(manifest)}.env"
    variables = _objects(_worker(manifest).get("env"), where)
    for variable in variables:
        if not _is_name(variable.get("name")):
            raise ManifestError(f"{where}: expected a name, found {variable.get('name')!r}")
        if not isinstance(variable.get("valueFrom") or {}, dict):
            raise ManifestError(f"{where}: {variable['name']}: expected an object in valueFrom")
    return variables


def _is_name(name: Any) -> bool:
    """Whether a process can have a variable of this name."""
    return isinstance(name, str) and bool(name) and "=" not in name and "\0" not in name


def _worker(manifest: ModelDeployment) -> dict[str, Any]:
    where = f"{manifest.full_name}: spec.podTemplate.spec.containers"
    containers = _objects(manifest.spec.pod_template.spec.get("containers"), where)
    return next((c for c in containers if c.get("name") == WORKER), {})


def _pull_secrets(manifest: ModelDeployment) -> list[str]:
    """Those of the pod open the registry of an oci:// source, too."""
    if not manifest.spec.model.source.startswith("oci://"):
        return []
    where = f"{manifest.full_name}: spec.podTemplate.spec.imagePullSecrets"
    secrets = _objects(manifest.spec.pod_template.spec.get("imagePullSecrets"), where)
    return [name for secret in secrets if (name := _text(secret, "name"))]


def _secret(manifest: ModelDeployment, name: str) -> Reference:
    return Reference("Secret", manifest.metadata.namespace, name)


def _where(manifest: ModelDeployment) -> str:
    return f"{manifest.full_name}: spec.podTemplate.spec.containers[{WORKER}]"


def _objects(value: Any, where: str) -> list[dict[str, Any]]:
    entries = value or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ManifestError(f"{where}: expected a list of objects")
    return entries


def _text(value: Any, field: str) -> str:
    found = value.get(field) if isinstance(value, Mapping) else None
    return found if isinstance(found, str) else ""


def ignored(manifest: ModelDeployment, values: Values) -> list[str]:
    """Fields of a template that `environment` took which mean nothing on one machine."""
    return sorted(_ignored(manifest, values))


def _ignored(manifest: ModelDeployment, values: Values) -> Iterator[str]:
    template = manifest.spec.pod_template
    for field in ("labels", "annotations"):
        if getattr(template.metadata, field):
            yield f"metadata.{field}"
    used = {"containers"} | ({"imagePullSecrets"} if logins(manifest, values) else set())
    yield from (f"spec.{name}" for name in template.spec if name not in used)
    for container in template.spec.get("containers") or ():
        if container.get("name") != WORKER:
            yield f"spec.containers[{container.get('name')}]"
            continue
        here = f"spec.containers[{WORKER}]"
        known = ("name", "env", "envFrom")
        yield from (f"{here}.{name}" for name in container if name not in known)
        given = environment(manifest, values)
        if any(variable.get("name") not in given for variable in container.get("env") or ()):
            yield f"{here}.env without a value"
    # Without the token's: that one is an error of its own.
    for reference in sorted(
        {s.reference for s in _sources(manifest) if s.variable != "HF_TOKEN"}, key=str
    ):
        if reference not in values:
            yield f"{reference}, which no file has"

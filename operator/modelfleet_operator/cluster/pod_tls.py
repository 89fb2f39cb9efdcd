"""What a worker's pod needs for TLS: where it asks for a certificate, and what shows who it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelfleet_proto.mtls.names import Role, server_name

AUDIENCE = "modelfleet"  # of the tokens that pods show: no use anywhere else
PORT = 9001
ISSUER = "MODELFLEET_TLS_ISSUER"
AUTHORITIES = "MODELFLEET_TLS_AUTHORITIES"
TOKEN = "MODELFLEET_TLS_TOKEN"  # noqa: S105  a variable's name
VARIABLES = frozenset({ISSUER, AUTHORITIES, TOKEN, "MODELFLEET_TLS_LISTEN"})

_VOLUME = "modelfleet-token"
_FOLDER = "/var/run/secrets/modelfleet.dev"
_TOKEN_SECONDS = 3600  # that the kubelet asks for; it writes a new one after 80 % of them


@dataclass(frozen=True, slots=True)
class WorkerTls:
    """As a pod of a template has it. Nothing of it changes with the authorities."""

    issuer: str  # HOST:PORT

    def environment(self) -> list[dict[str, Any]]:
        """Of the worker's container."""
        return [
            {"name": ISSUER, "value": self.issuer},
            {"name": TOKEN, "value": f"{_FOLDER}/token"},
        ]

    def mounts(self) -> list[dict[str, Any]]:
        """The same."""
        return [{"name": _VOLUME, "mountPath": _FOLDER, "readOnly": True}]

    def volumes(self) -> list[dict[str, Any]]:
        """A token for no one but the operator."""
        token = {"audience": AUDIENCE, "expirationSeconds": _TOKEN_SECONDS, "path": "token"}
        return [{"name": _VOLUME, "projected": {"sources": [{"serviceAccountToken": token}]}}]


def speaks_tls(spec: Mapping[str, Any], worker: str) -> bool:
    """Whether a pod was started with TLS; `worker` is its container's name."""
    return any(
        variable.get("name") == ISSUER
        for container in spec.get("containers", ())
        if container["name"] == worker
        for variable in container.get("env") or ()
    )


def trusting(bundle: bytes, spec: Mapping[str, Any], worker: str) -> Mapping[str, Any]:
    """The spec with the authorities of now: no part of the template, since they are replaced.

    A worker hears of later ones with each of its certificates. Without any, as where TLS was
    turned off since a kept template was made, it speaks without.
    """
    if not speaks_tls(spec, worker):
        return spec
    given = [{"name": AUTHORITIES, "value": bundle.decode()}] if bundle else []

    def changed(container: Mapping[str, Any]) -> Mapping[str, Any]:
        kept = [v for v in container["env"] if bundle or v["name"] != ISSUER]
        return {**container, "env": [*kept, *given]}

    containers = [changed(c) if c["name"] == worker else c for c in spec["containers"]]
    return {**spec, "containers": containers}


def tls_name(namespace: str, uid: str) -> str:
    """That a worker's certificate must have."""
    return server_name(Role.WORKER, namespace, uid)

"""`modelfleet explain` on a cluster: asks the operator that leads, through the API server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kubernetes.aio import client

from ..errors import ExplainError, PassingError, RejectedError
from ..explain.snapshot import Snapshot, load_snapshot
from .connection import Client, load_configuration
from .requests import answer, status_of, translated

NOT_FOUND = 404
PORT_NAME = "metrics"  # of the operator's container, as the chart calls it
TIMEOUT = 10.0  # seconds of each request


async def fetch_snapshot(
    key: str, *, kubeconfig: Path | None, context: str | None, namespace: str, lease: str
) -> Snapshot:
    """Of `namespace/name`; `namespace` and `lease` say where the operator is.

    Needs the rights to get that Lease and to get pods and pods/proxy beside it. ExplainError says
    which of them is missing, or that there is no such deployment.
    """
    configuration = await load_configuration(kubeconfig, context)
    # Else the client sends the slashes of the operator's path as %2F, which is another path.
    configuration.safe_chars_for_path_param = "/"
    async with Client(configuration, may_write=lambda: None, answered=lambda *_: None) as api:
        try:
            pod = await _leader(api, namespace, lease)
            port = await _metrics_port(api, namespace, pod)
            return load_snapshot(await _ask(api, namespace, f"{pod}:{port}", key))
        except (PassingError, RejectedError) as error:
            raise ExplainError(str(error)) from error


async def _leader(api: Client, namespace: str, lease: str) -> str:
    """The pod that holds the Lease."""
    request = client.CoordinationV1Api(api).read_namespaced_lease_without_preload_content(
        lease, namespace, _request_timeout=TIMEOUT
    )
    try:
        with translated(f"reading lease {namespace}/{lease}"):
            text = await answer(request)
    except RejectedError as error:
        if status_of(error) != NOT_FOUND:
            raise
        raise ExplainError(
            f"no operator: there is no Lease {namespace}/{lease}. Where is Modelfleet installed?"
            " Say it with --operator-namespace, and with --lease-name if the release has another"
            " name"
        ) from error
    holder = json.loads(text).get("spec", {}).get("holderIdentity") or ""
    if not holder:
        raise ExplainError(f"no operator leads: the Lease {namespace}/{lease} has no holder")
    return holder.partition("@")[0]


async def _metrics_port(api: Client, namespace: str, pod: str) -> int:
    request = client.CoreV1Api(api).read_namespaced_pod_without_preload_content(
        pod, namespace, _request_timeout=TIMEOUT
    )
    with translated(f"reading pod {namespace}/{pod}, which holds the Lease"):
        found: dict[str, Any] = json.loads(await answer(request))
    for container in found["spec"]["containers"]:
        for port in container.get("ports", ()):
            if port.get("name") == PORT_NAME:
                return int(port["containerPort"])
    raise ExplainError(f"the operator {namespace}/{pod} has no port named {PORT_NAME}")


async def _ask(api: Client, namespace: str, pod_and_port: str, key: str) -> str:
    core = client.CoreV1Api(api)
    request = core.connect_get_namespaced_pod_proxy_with_path_without_preload_content(
        pod_and_port, namespace, f"explain/{key}", _request_timeout=TIMEOUT
    )
    try:
        with translated(f"asking operator {namespace}/{pod_and_port} about {key}"):
            return await answer(request)
    except RejectedError as error:
        if status_of(error) == NOT_FOUND:  # in the operator's own words
            raise ExplainError(str(error.__cause__.body).strip()) from error  # type: ignore[union-attr]
        raise

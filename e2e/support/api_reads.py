"""Reads of what tests poll, over connections that stay open.

A kubectl for each look takes 0.12 s of processor time, and tests look five times a second: on two
cores that was a third of what an end-to-end run computes.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, Final

from kubernetes import config
from kubernetes.client import ApiClient
from urllib3.exceptions import HTTPError

GROUPS: Final = {
    "controllerrevisions": "apis/apps/v1",
    "leases": "apis/coordination.k8s.io/v1",
    "modeldeployments": "apis/modelfleet.dev/v1alpha1",
    "namespaces": "api/v1",
    "pods": "api/v1",
}
"""The kinds that are read here."""


def is_read_here(kind: str) -> bool:
    """Whether `kind`, in the singular or plural, is one of GROUPS."""
    return _plural(kind) in GROUPS


def read(kubeconfig: Path, namespace: str, kind: str, name: str = "", selector: str = "") -> Any:
    """One object or, without a name, a list of the kind; None: it is not there.

    Fails the test with what the API server says, as a kubectl that fails would.
    """
    plural = _plural(kind)
    where = "" if plural == "namespaces" else f"namespaces/{namespace}/"
    path = f"/{GROUPS[plural]}/{where}{plural}" + (f"/{name}" if name else "")
    client = _client(kubeconfig)
    request = client.param_serialize(
        "GET",
        path,
        query_params=[("labelSelector", selector)] if selector else [],
        header_params={"Accept": "application/json"},
        auth_settings=["BearerToken"],
    )
    try:
        response = client.call_api(*request, _request_timeout=30)
        body = response.read()
    except HTTPError as error:
        raise AssertionError(f"GET {path}: {error}") from None
    if response.status == 404 and name:
        return None
    assert response.status == 200, f"GET {path}: {response.status} {body.decode()}"
    return json.loads(body)


def _plural(kind: str) -> str:
    return kind if kind.endswith("s") else f"{kind}s"


@functools.cache
def _client(kubeconfig: Path) -> ApiClient:
    return config.new_client_from_config(str(kubeconfig))

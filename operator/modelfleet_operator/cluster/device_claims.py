"""Devices by dynamic resource allocation: the ResourceClaimTemplate of a class, and its use.

A template is made for each owner (a ModelDeployment or a WarmPool) and class, and named by what it
asks for, since its spec cannot be changed: another spec is another template, and the garbage
collector removes them with their owner.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from kubernetes.aio import client

from ..api.accelerator_class import DeviceClaim
from ..decisions.names import revision_hash
from ..errors import PassingError, RejectedError
from .accelerators import ACCELERATOR, KnownClass
from .pod_problems import WORKER
from .pods import owner_reference
from .requests import gone_is_success, owned, path_of, send, status_of, translated

GROUP, VERSION, PLURAL = "resource.k8s.io", "v1", "resourceclaimtemplates"
OWNER = "modelfleet.dev/claims-for"  # label: uid of the owner
CLAIM = "accelerator"  # the claim's name in the pod
REQUEST = "devices"  # the request's name in the claim
_NO_DRA = (
    "this cluster does not serve resource.k8s.io/v1 (Kubernetes 1.34 does), which "
    "AcceleratorClass {name} needs for spec.deviceClaim: use spec.resource there"
)


def claim_template(known: KnownClass, owner: Mapping[str, Any], owner_kind: str) -> dict[str, Any]:
    """The ResourceClaimTemplate of this class; `owner` is the metadata of who has the pods."""
    asked = known.spec.device_claim
    if asked is None:
        raise ValueError(f"AcceleratorClass {known.name} claims no device")
    spec = {"devices": {"requests": [{"name": REQUEST, "exactly": _exactly(asked)}]}}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "ResourceClaimTemplate",
        "metadata": {
            "name": f"{owner['name']}-{known.name}-{revision_hash([owner['uid'], spec])}",
            "namespace": owner["namespace"],
            "labels": {OWNER: owner["uid"], ACCELERATOR: known.name},
            "ownerReferences": [
                {**owner_reference(owner, owner_kind), "blockOwnerDeletion": False}
            ],
        },
        "spec": {"spec": spec},
    }


def _exactly(asked: DeviceClaim) -> dict[str, Any]:
    exactly: dict[str, Any] = {
        "deviceClassName": asked.device_class_name,
        "allocationMode": "ExactCount",
        "count": asked.count,
    }
    if asked.selectors:
        exactly["selectors"] = [{"cel": {"expression": s.expression}} for s in asked.selectors]
    return exactly


def with_claim(pod: dict[str, Any], template: str) -> dict[str, Any]:
    """The pod with a claim of this template, which its worker uses."""
    pod = copy.deepcopy(pod)
    spec = pod["spec"]
    claims = spec.get("resourceClaims", ())
    spec["resourceClaims"] = [*claims, {"name": CLAIM, "resourceClaimTemplateName": template}]
    (worker,) = [c for c in spec["containers"] if c["name"] == WORKER]
    resources = worker.setdefault("resources", {})
    resources["claims"] = [*resources.get("claims", ()), {"name": CLAIM}]
    return pod


class DeviceClaims:
    """Makes templates before pods refer to them. Nothing is remembered: a template is one POST."""

    def __init__(self, api_client: client.ApiClient) -> None:
        self._send = functools.partial(send, api_client)

    async def claimed(
        self, pod: dict[str, Any], known: KnownClass, owner: Mapping[str, Any], owner_kind: str
    ) -> dict[str, Any]:
        """The pod with its claim, of a class that names a DeviceClass; else the pod.

        RejectedError with the API server's sentence for a claim that it does not take.
        """
        if known.spec.device_claim is None:
            return pod
        template = claim_template(known, owner, owner_kind)
        if await self._create(template, known):
            await self._clear_away(template)
        return with_claim(pod, template["metadata"]["name"])

    async def _create(self, template: dict[str, Any], known: KnownClass) -> bool:
        """Whether it is new. That it is there already is success, if it is ours."""
        metadata = template["metadata"]
        name, namespace = metadata["name"], metadata["namespace"]
        try:
            with translated(f"AcceleratorClass {known.name}, spec.deviceClaim"):
                await self._send("POST", _templates(namespace), template)
        except PassingError as error:
            if status_of(error) != HTTPStatus.CONFLICT:
                raise
            with translated(f"reading resourceclaimtemplate {namespace}/{name}"):
                found = json.loads(await self._send("GET", f"{_templates(namespace)}/{name}"))
            owned("resourceclaimtemplate", found, metadata["labels"][OWNER])
        except RejectedError as error:
            if status_of(error) == HTTPStatus.NOT_FOUND and "namespaces" not in str(error):
                raise RejectedError(_NO_DRA.format(name=known.name)) from error
            # Below its first line the compiler of CEL draws the place of an error.
            raise RejectedError(str(error).partition("\n")[0]) from error
        else:
            return True
        return False

    async def _clear_away(self, template: dict[str, Any]) -> None:
        """Deletes what the same owner and class asked for before.

        A pod that is made of one has its claim by now, or is replaced, as its class was changed.
        """
        metadata = template["metadata"]
        namespace, labels = metadata["namespace"], metadata["labels"]
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        with translated(f"listing resourceclaimtemplates in {namespace}"):
            listed = await self._send(
                "GET", _templates(namespace), query={"labelSelector": selector}
            )
        for old in json.loads(listed)["items"]:
            name, its = old["metadata"]["name"], old["metadata"].get("labels", {})
            if name != metadata["name"] and labels.items() <= its.items():
                doing = f"deleting resourceclaimtemplate {namespace}/{name}"
                with translated(doing), gone_is_success():
                    options = {"preconditions": {"uid": old["metadata"]["uid"]}}
                    await self._send("DELETE", f"{_templates(namespace)}/{name}", options)


def _templates(namespace: str) -> str:
    return path_of(f"apis/{GROUP}/{VERSION}", namespace, PLURAL)

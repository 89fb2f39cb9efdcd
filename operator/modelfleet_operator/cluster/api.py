"""The Kubernetes API, as far as we write to it. Reading is kopf's: its watches fill the indices."""

from __future__ import annotations

import datetime
import functools
import json
import socket
import time
from collections.abc import Mapping
from typing import Any, Literal

from kubernetes.aio import client

from ..api.model_deployment import API_VERSION, GROUP, KIND, PLURAL
from ..decisions.observed import Worker
from ..decisions.standby import Standby
from ..errors import PassingError
from .device_claims import DeviceClaims
from .observing import Object
from .requests import APPLY, MERGE, gone_is_success, owned, path_of, send, status_of, translated

MANAGED = {"fieldManager": "modelfleet"}
# Seconds that a pod gets to end on which nothing runs. A worker whose Python is not up yet cannot
# hear SIGTERM: it is its container's first process, so the kernel drops a signal without a handler.
IDLE_GRACE = 10
INSTANCE = socket.gethostname()  # where Events come from


class ClusterApi:
    """Raises PassingError for what may pass by itself, RejectedError for what a person must fix."""

    def __init__(self, api_client: client.ApiClient) -> None:
        self._send = functools.partial(send, api_client)
        self.device_claims = DeviceClaims(api_client)

    async def create_pod(self, pod: dict[str, Any], owner_uid: str) -> tuple[Object, bool]:
        """The pod, and whether it is new. That it was there already is success, if it is ours."""
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        try:
            with translated(f"creating pod {namespace}/{name}"):
                return await self._post_pod(namespace, pod), True
        except PassingError as error:
            if status_of(error) != 409:
                raise
            conflict = error
        found = await self.read_pod(name, namespace)
        if found is None:
            # Many pods at once conflict over a ResourceQuota's count, too: then there is none.
            raise conflict
        return owned("pod", found, owner_uid), False

    async def _post_pod(self, namespace: str, pod: dict[str, Any]) -> Object:
        strict = {"fieldValidation": "Strict"}
        created: Object = json.loads(await self._send("POST", _pods(namespace), pod, strict))
        return created

    async def create_revision(self, revision: dict[str, Any], owner_uid: str) -> Object:
        """The ControllerRevision; that it was there already is success, if it is ours."""
        name, namespace = revision["metadata"]["name"], revision["metadata"]["namespace"]
        try:
            with translated(f"creating controllerrevision {namespace}/{name}"):
                text = await self._send("POST", _revisions(namespace), revision)
                created: Object = json.loads(text)
                return created
        except PassingError as error:
            if status_of(error) != 409:
                raise
        with translated(f"reading controllerrevision {namespace}/{name}"):
            text = await self._send("GET", f"{_revisions(namespace)}/{name}")
        return owned("controllerrevision", json.loads(text), owner_uid)

    async def delete_revision(self, namespace: str, name: str, uid: str) -> None:
        """Gone is success."""
        options = {"preconditions": {"uid": uid}}
        doing = f"deleting controllerrevision {namespace}/{name}"
        with translated(doing), gone_is_success():
            await self._send("DELETE", f"{_revisions(namespace)}/{name}", options)

    async def delete_pod(self, worker: Worker, grace: int | None) -> bool:
        """Ends it; whether it was there. Another pod of the same name is left alone.

        `grace` is in seconds; None: as its spec says.
        """
        return await self._delete_pod(worker.namespace, worker.name, grace, uid=worker.uid)

    async def write_budget(self, budget: dict[str, Any], owner_uid: str, uid: str) -> None:
        """Creates or changes a PodDisruptionBudget; one of another owner is left alone.

        `uid`: of the one that is known to be there; empty: none is.
        """
        name, namespace = budget["metadata"]["name"], budget["metadata"]["namespace"]
        if not uid:
            try:
                with translated(f"creating poddisruptionbudget {namespace}/{name}"):
                    await self._send("POST", _budgets(namespace), budget)
                    return
            except PassingError as error:
                if status_of(error) != 409:
                    raise
            with translated(f"reading poddisruptionbudget {namespace}/{name}"):
                found = json.loads(await self._send("GET", f"{_budgets(namespace)}/{name}"))
            uid = owned("poddisruptionbudget", found, owner_uid)["metadata"]["uid"]
        patch = {"metadata": {"uid": uid}, "spec": budget["spec"]}
        with translated(f"changing poddisruptionbudget {namespace}/{name}"), gone_is_success():
            await self._send("PATCH", f"{_budgets(namespace)}/{name}", patch, MANAGED, MERGE)

    async def apply_policy(self, policy: dict[str, Any]) -> None:
        """Server-side apply of a NetworkPolicy: all that it says is ours."""
        name, namespace = policy["metadata"]["name"], policy["metadata"]["namespace"]
        path = f"{path_of('apis/networking.k8s.io/v1', namespace, 'networkpolicies')}/{name}"
        with translated(f"writing networkpolicy {namespace}/{name}"):
            await self._send("PATCH", path, policy, {**MANAGED, "force": "true"}, APPLY)

    async def annotate_pod(self, worker: Worker, annotations: dict[str, str | None]) -> bool:
        """As `label_pod`."""
        return await self._patch_metadata(worker, {"annotations": annotations})

    async def label_pod(self, worker: Worker, labels: dict[str, str | None]) -> bool:
        """Sets labels on exactly this pod, or removes them (None); whether it was there."""
        return await self._patch_metadata(worker, {"labels": labels})

    async def _patch_metadata(self, worker: Worker, metadata: dict[str, Any]) -> bool:
        patch = {"metadata": {"uid": worker.uid, **metadata}}
        with translated(f"labelling pod {worker.id}"), gone_is_success() as outcome:
            await self._patch_pod(worker.namespace, worker.name, patch)
        return outcome.found

    async def _patch_pod(self, namespace: str, name: str, patch: dict[str, Any]) -> str:
        return await self._send("PATCH", f"{_pods(namespace)}/{name}", patch, MANAGED, MERGE)

    async def _delete_pod(
        self, namespace: str, name: str, grace: int | None, **preconditions: str
    ) -> bool:
        options: dict[str, Any] = {"preconditions": preconditions}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        with translated(f"deleting pod {namespace}/{name}"), gone_is_success() as outcome:
            await self._send("DELETE", f"{_pods(namespace)}/{name}", options)
        return outcome.found

    async def swap_owner(self, pod: str, namespace: str, patch: dict[str, Any]) -> Object | None:
        """The pod as it is then; None: it was changed since the version that the patch names."""
        with translated(f"claiming pod {namespace}/{pod}"), gone_is_success():
            claimed: Object = json.loads(await self._patch_pod(namespace, pod, patch))
            return claimed
        return None

    async def read_pod(self, pod: str, namespace: str) -> Object | None:
        """As it is now; None: it is gone."""
        with translated(f"reading pod {namespace}/{pod}"), gone_is_success():
            found: Object = json.loads(await self._send("GET", f"{_pods(namespace)}/{pod}"))
            return found
        return None

    async def delete_standby(self, standby: Standby, grace: int) -> bool:
        """Ends it, unless it was changed since, as by a claim; whether it was deleted."""
        return await self._delete_pod(
            standby.namespace,
            standby.name,
            grace,
            uid=standby.uid,
            resourceVersion=standby.version,
        )

    async def apply_status(
        self,
        namespace: str,
        name: str,
        uid: str,
        status: dict[str, Any],
        *,
        kind: str = KIND,
        plural: str = PLURAL,
    ) -> bool:
        """Server-side apply of the whole status; whether this very object is there."""
        patch = {
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": {"namespace": namespace, "name": name, "uid": uid},
            "status": status,
        }
        path = f"{path_of(f'apis/{API_VERSION}', namespace, plural)}/{name}/status"
        forced = {**MANAGED, "force": "true"}
        with translated(f"writing the status of {namespace}/{name}"), gone_is_success() as outcome:
            await self._send("PATCH", path, patch, forced, APPLY)
        return outcome.found

    async def apply_eviction_status(
        self, namespace: str, name: str, status: dict[str, Any]
    ) -> None:
        """Server-side apply of our part of an Eviction's status; gone is success."""
        api = "lifecycle.k8s.io/v1alpha1"
        patch = {
            "apiVersion": api,
            "kind": "Eviction",
            "metadata": {"namespace": namespace, "name": name},
            "status": status,
        }
        path = f"{path_of(f'apis/{api}', namespace, 'evictions')}/{name}/status"
        forced = {**MANAGED, "force": "true"}
        with translated(f"writing the status of eviction {namespace}/{name}"), gone_is_success():
            await self._send("PATCH", path, patch, forced, APPLY)

    async def post_event(
        self,
        regarding: Mapping[str, Any],
        *,
        kind: Literal["Normal", "Warning"],
        reason: str,
        note: str,
        object_kind: str = KIND,
        api_version: str = API_VERSION,
    ) -> None:
        """An Event that `kubectl describe` shows; `reason` is one CamelCase word."""
        metadata = regarding["metadata"]
        name, namespace = metadata["name"], metadata["namespace"]
        now = datetime.datetime.now(datetime.UTC)
        event = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{name}.{time.time_ns():x}", "namespace": namespace},
            "eventTime": now.isoformat(timespec="microseconds"),
            "reportingController": f"{GROUP}/operator",
            "reportingInstance": INSTANCE,
            "action": reason,
            "reason": reason,
            "type": kind,
            "note": note[:1024],
            "regarding": {
                "apiVersion": api_version,
                "kind": object_kind,
                "name": name,
                "namespace": namespace,
                "uid": metadata["uid"],
            },
        }
        with translated(f"posting an event on {namespace}/{name}"):
            await self._send("POST", path_of("apis/events.k8s.io/v1", namespace, "events"), event)


def _pods(namespace: str) -> str:
    return path_of("api/v1", namespace, "pods")


def _revisions(namespace: str) -> str:
    return path_of("apis/apps/v1", namespace, "controllerrevisions")


def _budgets(namespace: str) -> str:
    return path_of("apis/policy/v1", namespace, "poddisruptionbudgets")

"""The Kubernetes API, as far as we write to it. Reading is kopf's: its watches fill the indices."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any, Literal

from kubernetes.aio import client

from ..api import accelerator_class, warm_pool
from ..api.model_deployment import API_VERSION, GROUP, KIND, PLURAL, VERSION
from ..decisions.observed import Worker
from ..decisions.standby import Standby
from ..errors import PassingError, RejectedError
from .device_claims import DeviceClaims
from .observing import Object, owned_by
from .requests import answer, status_of, translated

FIELD_MANAGER = "modelfleet"
TIMEOUT = 15.0  # seconds a request may take
INSTANCE = socket.gethostname()  # where Events come from
RESOURCES = frozenset({PLURAL, accelerator_class.PLURAL, warm_pool.PLURAL})


class ClusterApi:
    """Raises PassingError for what may pass by itself, RejectedError for what a person must fix."""

    def __init__(self, api_client: client.ApiClient) -> None:
        self._pods = client.CoreV1Api(api_client)
        self._objects = client.CustomObjectsApi(api_client)
        self._apps = client.AppsV1Api(api_client)
        self._events = client.EventsV1Api(api_client)
        self._policy = client.PolicyV1Api(api_client)
        self.device_claims = DeviceClaims(api_client)

    async def missing_resources(self) -> frozenset[str]:
        """What the API server does not serve of our group: a CRD is not installed (yet)."""
        with translated(f"asking for the resources of {API_VERSION}"):
            try:
                told = await self._objects.get_api_resources(
                    GROUP, VERSION, _request_timeout=TIMEOUT
                )
            except client.ApiException as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
                return RESOURCES
        return RESOURCES - {resource.name for resource in told.resources}

    async def has_deployments(self, namespaces: Iterable[str]) -> bool:
        """Whether there is any ModelDeployment in these namespaces; empty: in all."""
        with translated(f"listing {PLURAL}.{GROUP}"):
            lists: list[Any] = [
                await self._objects.list_namespaced_custom_object(
                    GROUP, VERSION, namespace, PLURAL, limit=1, _request_timeout=TIMEOUT
                )
                for namespace in namespaces
            ] or [
                await self._objects.list_cluster_custom_object(
                    GROUP, VERSION, PLURAL, limit=1, _request_timeout=TIMEOUT
                )
            ]
        return any(found["items"] for found in lists)

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
        return _owned("pod", found, owner_uid), False

    async def _post_pod(self, namespace: str, pod: dict[str, Any]) -> Object:
        body: Any = client.V1Pod.from_dict(pod)
        created = await answer(
            self._pods.create_namespaced_pod_without_preload_content(
                namespace, body, field_validation="Strict", _request_timeout=TIMEOUT
            )
        )
        found: Object = json.loads(created)
        return found

    async def create_revision(self, revision: dict[str, Any], owner_uid: str) -> Object:
        """The ControllerRevision; that it was there already is success, if it is ours."""
        name, namespace = revision["metadata"]["name"], revision["metadata"]["namespace"]
        body: Any = client.V1ControllerRevision.from_dict(revision)
        try:
            with translated(f"creating controllerrevision {namespace}/{name}"):
                text = await answer(
                    self._apps.create_namespaced_controller_revision_without_preload_content(
                        namespace, body, _request_timeout=TIMEOUT
                    )
                )
                created: Object = json.loads(text)
                return created
        except PassingError as error:
            if status_of(error) != 409:
                raise
        with translated(f"reading controllerrevision {namespace}/{name}"):
            text = await answer(
                self._apps.read_namespaced_controller_revision_without_preload_content(
                    name, namespace, _request_timeout=TIMEOUT
                )
            )
        return _owned("controllerrevision", json.loads(text), owner_uid)

    async def delete_revision(self, namespace: str, name: str, uid: str) -> None:
        """Gone is success."""
        options = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=uid))
        doing = f"deleting controllerrevision {namespace}/{name}"
        with translated(doing), _gone_is_success():
            await answer(
                self._apps.delete_namespaced_controller_revision_without_preload_content(
                    name, namespace, body=options, _request_timeout=TIMEOUT
                )
            )

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
            body: Any = client.V1PodDisruptionBudget.from_dict(budget)
            try:
                with translated(f"creating poddisruptionbudget {namespace}/{name}"):
                    await answer(
                        self._policy.create_namespaced_pod_disruption_budget_without_preload_content(
                            namespace, body, _request_timeout=TIMEOUT
                        )
                    )
                    return
            except PassingError as error:
                if status_of(error) != 409:
                    raise
            with translated(f"reading poddisruptionbudget {namespace}/{name}"):
                found = json.loads(
                    await answer(
                        self._policy.read_namespaced_pod_disruption_budget_without_preload_content(
                            name, namespace, _request_timeout=TIMEOUT
                        )
                    )
                )
            uid = _owned("poddisruptionbudget", found, owner_uid)["metadata"]["uid"]
        patch = {"metadata": {"uid": uid}, "spec": budget["spec"]}
        with translated(f"changing poddisruptionbudget {namespace}/{name}"), _gone_is_success():
            await answer(
                self._policy.patch_namespaced_pod_disruption_budget_without_preload_content(
                    name,
                    namespace,
                    patch,
                    field_manager=FIELD_MANAGER,
                    _content_type="application/merge-patch+json",
                    _request_timeout=TIMEOUT,
                )
            )

    async def may_watch_nodes(self) -> bool:
        """Whether the operator has the right; what may be listed may be watched by our roles."""
        return await self._may("nodes", self._pods.list_node_without_preload_content)

    async def may_watch_budgets(self, namespaces: Iterable[str]) -> bool:
        """The same for PodDisruptionBudgets in these namespaces; empty: in all."""
        policy = self._policy
        lists = [
            functools.partial(
                policy.list_namespaced_pod_disruption_budget_without_preload_content, namespace
            )
            for namespace in namespaces
        ] or [policy.list_pod_disruption_budget_for_all_namespaces_without_preload_content]
        return all([await self._may("poddisruptionbudgets", list_) for list_ in lists])

    async def _may(self, plural: str, list_: Callable[..., Awaitable[Any]]) -> bool:
        try:
            with translated(f"listing {plural}"):
                await answer(list_(limit=1, _request_timeout=TIMEOUT))
        except RejectedError:
            return False
        return True

    async def annotate_pod(self, worker: Worker, annotations: dict[str, str | None]) -> bool:
        """As `label_pod`."""
        return await self._patch_metadata(worker, {"annotations": annotations})

    async def label_pod(self, worker: Worker, labels: dict[str, str | None]) -> bool:
        """Sets labels on exactly this pod, or removes them (None); whether it was there."""
        return await self._patch_metadata(worker, {"labels": labels})

    async def _patch_metadata(self, worker: Worker, metadata: dict[str, Any]) -> bool:
        patch = {"metadata": {"uid": worker.uid, **metadata}}
        with translated(f"labelling pod {worker.id}"), _gone_is_success() as outcome:
            await self._patch_pod(worker.namespace, worker.name, patch)
        return outcome.found

    async def _patch_pod(self, namespace: str, name: str, patch: dict[str, Any]) -> str:
        return await answer(
            self._pods.patch_namespaced_pod_without_preload_content(
                name,
                namespace,
                patch,
                field_manager=FIELD_MANAGER,
                _content_type="application/merge-patch+json",
                _request_timeout=TIMEOUT,
            )
        )

    async def _delete_pod(
        self, namespace: str, name: str, grace: int | None, **preconditions: str
    ) -> bool:
        options = client.V1DeleteOptions(
            grace_period_seconds=grace, preconditions=client.V1Preconditions(**preconditions)
        )
        with translated(f"deleting pod {namespace}/{name}"), _gone_is_success() as outcome:
            await answer(
                self._pods.delete_namespaced_pod_without_preload_content(
                    name, namespace, body=options, _request_timeout=TIMEOUT
                )
            )
        return outcome.found

    async def swap_owner(self, pod: str, namespace: str, patch: dict[str, Any]) -> Object | None:
        """The pod as it is then; None: it was changed since the version that the patch names."""
        with translated(f"claiming pod {namespace}/{pod}"), _gone_is_success():
            claimed: Object = json.loads(await self._patch_pod(namespace, pod, patch))
            return claimed
        return None

    async def read_pod(self, pod: str, namespace: str) -> Object | None:
        """As it is now; None: it is gone."""
        with translated(f"reading pod {namespace}/{pod}"), _gone_is_success():
            text = await answer(
                self._pods.read_namespaced_pod_without_preload_content(
                    pod, namespace, _request_timeout=TIMEOUT
                )
            )
            found: Object = json.loads(text)
            return found
        return None

    async def delete_standby(self, standby: Standby, grace: int) -> bool:
        """Ends it, unless it was changed since, as by a claim; whether it was deleted."""
        return await self._delete_pod(
            standby.namespace,
            standby.name,
            grace,
            uid=standby.uid,
            resource_version=standby.version,
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
        with translated(f"writing the status of {namespace}/{name}"), _gone_is_success() as outcome:
            await self._objects.patch_namespaced_custom_object_status(
                GROUP,
                VERSION,
                namespace,
                plural,
                name,
                patch,
                field_manager=FIELD_MANAGER,
                force=True,
                _content_type="application/apply-patch+yaml",
                _request_timeout=TIMEOUT,
            )
        return outcome.found

    async def post_event(
        self,
        regarding: Object,
        *,
        kind: Literal["Normal", "Warning"],
        reason: str,
        note: str,
        object_kind: str = KIND,
    ) -> None:
        """An Event that `kubectl describe` shows; `reason` is one CamelCase word."""
        metadata = regarding["metadata"]
        now = datetime.datetime.now(datetime.UTC)
        event = client.EventsV1Event(
            metadata=client.V1ObjectMeta(
                name=f"{metadata['name']}.{time.time_ns():x}", namespace=metadata["namespace"]
            ),
            # The API server wants a fraction of a second, and isoformat leaves a zero one out.
            event_time=now.replace(microsecond=now.microsecond or 1),
            reporting_controller=f"{GROUP}/operator",
            reporting_instance=INSTANCE,
            action=reason,
            reason=reason,
            type=kind,
            note=note[:1024],
            regarding=client.V1ObjectReference(
                api_version=API_VERSION,
                kind=object_kind,
                name=metadata["name"],
                namespace=metadata["namespace"],
                uid=metadata["uid"],
            ),
        )
        with translated(f"posting an event on {metadata['namespace']}/{metadata['name']}"):
            await answer(
                self._events.create_namespaced_event_without_preload_content(
                    metadata["namespace"], event, _request_timeout=TIMEOUT
                )
            )


def _owned(kind: str, found: Object, owner_uid: str) -> Object:
    if not owned_by(found, owner_uid):
        name = f"{found['metadata']['namespace']}/{found['metadata']['name']}"
        raise RejectedError(f"{kind} {name} exists and has another owner: delete or rename it")
    return found


class _Outcome:
    found = True


@contextlib.contextmanager
def _gone_is_success() -> Iterator[_Outcome]:
    """404: it is gone. 409 with a uid: another object has its name now, so it is gone, too."""
    outcome = _Outcome()
    try:
        yield outcome
    except client.ApiException as error:
        if error.status not in {404, 409}:
            raise
        outcome.found = False

"""The Kubernetes API, as far as we write to it. Reading is kopf's: its watches fill the indices."""

from __future__ import annotations

import contextlib
import datetime
import json
import socket
import time
from collections.abc import Awaitable, Iterable, Iterator
from typing import Any, Literal

import aiohttp
from kubernetes.aio import client

from ..decisions.observed import Worker
from ..errors import PassingError, RejectedError
from ..spec import API_VERSION, GROUP, KIND, PLURAL, VERSION
from .observing import Object, owned_by

FIELD_MANAGER = "modelfleet"
TIMEOUT = 15.0  # seconds a request may take

# What the same request may meet with success later; other refusals somebody must correct.
_PASSING = frozenset({401, 408, 409, 429})


class ClusterApi:
    """Raises PassingError for what may pass by itself, RejectedError for what somebody must fix."""

    def __init__(self, api_client: client.ApiClient) -> None:
        self._pods = client.CoreV1Api(api_client)
        self._objects = client.CustomObjectsApi(api_client)
        self._events = client.EventsV1Api(api_client)

    async def has_deployments(self, namespaces: Iterable[str]) -> bool:
        """Whether there is any ModelDeployment in these namespaces; empty: in all."""
        with _translated(f"listing {PLURAL}.{GROUP} (is its CRD installed?)"):
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

    async def create_pod(self, pod: dict[str, Any], owner_uid: str) -> bool:
        """Whether it is new. That it was there already is success, if it is ours."""
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        body: Any = client.V1Pod.from_dict(pod)
        try:
            with _translated(f"creating pod {namespace}/{name}"):
                await _answer(
                    self._pods.create_namespaced_pod_without_preload_content(
                        namespace, body, _request_timeout=TIMEOUT
                    )
                )
        except PassingError as error:
            if _status_of(error) != 409:
                raise
            await self._check_owner(namespace, name, owner_uid)
            return False
        return True

    async def _check_owner(self, namespace: str, name: str, owner_uid: str) -> None:
        with _translated(f"reading pod {namespace}/{name}"):
            text = await _answer(
                self._pods.read_namespaced_pod_without_preload_content(
                    name, namespace, _request_timeout=TIMEOUT
                )
            )
        if not owned_by(json.loads(text), owner_uid):
            raise RejectedError(
                f"pod {namespace}/{name} exists and belongs to somebody else: delete or rename it"
            )

    async def delete_pod(self, worker: Worker) -> bool:
        """Ends it gracefully; whether it was there. Another pod of the same name is left alone."""
        options = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=worker.uid))
        with _translated(f"deleting pod {worker.id}"), _gone_is_fine() as outcome:
            await _answer(
                self._pods.delete_namespaced_pod_without_preload_content(
                    worker.name, worker.namespace, body=options, _request_timeout=TIMEOUT
                )
            )
        return outcome.found

    async def label_pod(self, worker: Worker, labels: dict[str, str]) -> bool:
        """Sets labels on exactly this pod; whether it was there."""
        patch = {"metadata": {"uid": worker.uid, "labels": labels}}
        with _translated(f"labelling pod {worker.id}"), _gone_is_fine() as outcome:
            await _answer(
                self._pods.patch_namespaced_pod_without_preload_content(
                    worker.name,
                    worker.namespace,
                    patch,
                    field_manager=FIELD_MANAGER,
                    _content_type="application/merge-patch+json",
                    _request_timeout=TIMEOUT,
                )
            )
        return outcome.found

    async def apply_status(
        self, namespace: str, name: str, uid: str, status: dict[str, Any]
    ) -> bool:
        """Server-side apply of the whole status; whether this very object is there."""
        patch = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"namespace": namespace, "name": name, "uid": uid},
            "status": status,
        }
        with _translated(f"writing the status of {namespace}/{name}"), _gone_is_fine() as outcome:
            await self._objects.patch_namespaced_custom_object_status(
                GROUP,
                VERSION,
                namespace,
                PLURAL,
                name,
                patch,
                field_manager=FIELD_MANAGER,
                force=True,
                _content_type="application/apply-patch+yaml",
                _request_timeout=TIMEOUT,
            )
        return outcome.found

    async def post_event(
        self, regarding: Object, *, kind: Literal["Normal", "Warning"], reason: str, note: str
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
            reporting_instance=socket.gethostname(),
            action=reason,
            reason=reason,
            type=kind,
            note=note[:1024],
            regarding=client.V1ObjectReference(
                api_version=API_VERSION,
                kind=KIND,
                name=metadata["name"],
                namespace=metadata["namespace"],
                uid=metadata["uid"],
            ),
        )
        with _translated(f"posting an event on {metadata['namespace']}/{metadata['name']}"):
            await _answer(
                self._events.create_namespaced_event_without_preload_content(
                    metadata["namespace"], event, _request_timeout=TIMEOUT
                )
            )


async def _answer(request: Awaitable[Any]) -> str:
    """The body, unread: the client would refuse a deed that was done for an answer it cannot type.

    What we wrote comes back through the watch.
    """
    response: aiohttp.ClientResponse = await request
    async with response:
        text = await response.text()
    if response.status >= 400:
        raise client.ApiException(status=response.status, reason=response.reason, body=text)
    return text


class _Outcome:
    found = True


@contextlib.contextmanager
def _gone_is_fine() -> Iterator[_Outcome]:
    """404: it is gone. 409 with a uid: another object has its name now, so it is gone, too."""
    outcome = _Outcome()
    try:
        yield outcome
    except client.ApiException as error:
        if error.status not in {404, 409}:
            raise
        outcome.found = False


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except client.ApiException as error:
        message = f"{doing}: {error.status} {error.reason}: {_message(error)}"
        status = error.status or 0
        if status in _PASSING or status >= 500:
            raise PassingError(message) from error
        raise RejectedError(message) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise PassingError(f"{doing}: {error or type(error).__name__}") from error


def _status_of(error: PassingError) -> int | None:
    cause = error.__cause__
    return cause.status if isinstance(cause, client.ApiException) else None


def _message(error: client.ApiException) -> str:
    """The sentence in the API server's Status object, or the body as it is."""
    try:
        return str(json.loads(error.body or "")["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.body)

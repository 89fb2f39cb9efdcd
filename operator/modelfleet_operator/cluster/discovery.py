"""What the API server has for an operator that starts: its CRDs, objects, and rights to watch."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Any

from kubernetes.aio import client

from ..api import accelerator_class, warm_pool
from ..api.model_deployment import API_VERSION, GROUP, PLURAL, VERSION
from ..errors import RejectedError
from . import evictions
from .requests import TIMEOUT, answer, translated

RESOURCES = frozenset({PLURAL, accelerator_class.PLURAL, warm_pool.PLURAL})


class Discovery:
    """Raises PassingError for what may pass by itself, RejectedError for what a person must fix."""

    def __init__(self, api_client: client.ApiClient) -> None:
        self._core = client.CoreV1Api(api_client)
        self._objects = client.CustomObjectsApi(api_client)
        self._policy = client.PolicyV1Api(api_client)

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

    async def may_watch_nodes(self) -> bool:
        """Whether the operator has the right; what may be listed may be watched by our roles."""
        return await self._may("nodes", self._core.list_node_without_preload_content)

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

    async def may_watch_evictions(self, namespaces: Iterable[str]) -> bool:
        """Whether the API server has the Evictions of KEP-4563, and the operator the right."""
        with translated(f"asking for the resources of {evictions.GROUP}"):
            try:
                told = await self._objects.get_api_resources(
                    evictions.GROUP, evictions.VERSION, _request_timeout=TIMEOUT
                )
            except client.ApiException as error:
                if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN):
                    raise
                return False
        if evictions.PLURAL not in {resource.name for resource in told.resources}:
            return False
        where = evictions.GROUP, evictions.VERSION
        lists = [
            functools.partial(
                self._objects.list_namespaced_custom_object_without_preload_content,
                *where,
                namespace,
                evictions.PLURAL,
            )
            for namespace in namespaces
        ] or [
            functools.partial(
                self._objects.list_cluster_custom_object_without_preload_content,
                *where,
                evictions.PLURAL,
            )
        ]
        return all([await self._may(evictions.PLURAL, list_) for list_ in lists])

    async def _may(self, plural: str, list_: Callable[..., Awaitable[Any]]) -> bool:
        try:
            with translated(f"listing {plural}"):
                await answer(list_(limit=1, _request_timeout=TIMEOUT))
        except RejectedError:
            return False
        return True

"""Finds the deletions that watches missed.

kopf lists anew after a gap, but keeps what was deleted in it; and a watch that sees nothing at all
cannot be told from a cluster where nothing happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, NoReturn

import structlog
from kubernetes.aio import client

from ..api import warm_pool
from ..api.model_deployment import GROUP, PLURAL, VERSION
from ..errors import PassingError, RejectedError, WatchLostError
from .pods import DEPLOYMENT
from .requests import answer, translated

PERIOD = 300.0  # seconds between sweeps that nothing asked for
PAUSE = 2.0  # seconds from an object that was listed anew to the sweep: the others come, too
LAG = 30.0  # seconds that a watch may be behind the API server
PAGE = 1000
TIMEOUT = 60.0  # seconds a page may take
_NAMES_ONLY = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}

log = structlog.get_logger()

List = Callable[..., Awaitable[Any]]


class Sweeper:
    """Compares the indices with the API server now and then, and after each gap."""

    def __init__(
        self,
        api_client: client.ApiClient,
        namespaces: Collection[str],
        cached: Callable[[], Mapping[str, str]],
        missed: Callable[[str, str], None],
        lag: float = LAG,
    ) -> None:
        """`cached`: uid -> deployment of all that the indices hold; `namespaces` empty: all.

        `missed` gets uid and deployment of each object that was deleted without an event.
        """
        self._lag = lag
        self._pods = client.CoreV1Api(api_client)
        self._objects = client.CustomObjectsApi(api_client)
        self._namespaces = namespaces
        self._cached = cached
        self._missed = missed
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """There was a gap: sweep soon."""
        self._asked.set()

    async def run(self) -> NoReturn:
        """Compares now and then, for ever. WatchLostError: only a new start helps."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD * random.uniform(0.75, 1.0)):
                    await self._asked.wait()
            await asyncio.sleep(PAUSE)
            await self.compare()

    async def compare(self) -> None:
        """Until indices and API server agree; one that does not answer is asked again later.

        WatchLostError when a deployment stays unseen for longer than a watch may be behind.
        """
        self._asked.clear()
        try:
            unseen = await self.sweep()
            deadline = time.monotonic() + self._lag
            while unseen and time.monotonic() < deadline:
                await asyncio.sleep(PAUSE)
                unseen &= await self.sweep()
        except (PassingError, RejectedError) as error:
            log.warning("the indices are not compared", error=str(error))
            return
        if unseen:
            raise WatchLostError(
                f"{len(unseen)} ModelDeployments that the API server has were never seen by the "
                "watch: this replica ends, and watches anew when it is started again"
            )

    async def sweep(self) -> set[str]:
        """What was cached before the lists began and is in none of them is gone.

        Returns the uids of deployments that exist and are not cached.
        """
        cached = self._cached()
        deployments, there = set[str](), set[str]()
        for list_, options in self._lists():
            found = await self._uids(list_, options)
            there |= found
            if options.get("plural") == PLURAL:
                deployments |= found
        for uid in cached.keys() - there:
            log.warning("a watch has missed that it was deleted", uid=uid, model=cached[uid])
            self._missed(uid, cached[uid])
        return deployments - self._cached().keys()

    def _lists(self) -> list[tuple[List, dict[str, Any]]]:
        pods, objects = self._pods, self._objects
        ours: dict[str, Any] = {"group": GROUP, "version": VERSION, "plural": PLURAL}
        pools = {**ours, "plural": warm_pool.PLURAL}
        history: dict[str, Any] = {
            "group": "apps",
            "version": "v1",
            "plural": "controllerrevisions",
            "label_selector": DEPLOYMENT,
        }
        if not self._namespaces:
            everywhere = objects.list_cluster_custom_object_without_preload_content
            return [
                (everywhere, ours),
                (everywhere, pools),
                (everywhere, history),
                (
                    pods.list_pod_for_all_namespaces_without_preload_content,
                    {"label_selector": DEPLOYMENT},
                ),
            ]
        here = objects.list_namespaced_custom_object_without_preload_content
        return [
            found
            for namespace in self._namespaces
            for found in (
                (here, {**ours, "namespace": namespace}),
                (here, {**pools, "namespace": namespace}),
                (here, {**history, "namespace": namespace}),
                (
                    pods.list_namespaced_pod_without_preload_content,
                    {"namespace": namespace, "label_selector": DEPLOYMENT},
                ),
            )
        ]

    async def _uids(self, list_: List, options: dict[str, Any]) -> set[str]:
        found: set[str] = set()
        page: dict[str, str] = {}
        while True:
            request = list_(
                **options, **page, limit=PAGE, _headers=_NAMES_ONLY, _request_timeout=TIMEOUT
            )
            with translated("listing what there is"):
                listed = json.loads(await answer(request))
            # Where there are none, the API server says null.
            found.update(item["metadata"]["uid"] for item in listed["items"] or ())
            token = listed["metadata"].get("continue")
            if not token:
                return found
            page = {"_continue": token}

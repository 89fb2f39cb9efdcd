"""The logs of a deployment's worker pods, through the Kubernetes API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio import client

from ..errors import LogsError, PassingError, RejectedError
from .connection import Client, load_configuration
from .pod_problems import WORKER
from .pods import selector
from .requests import answer, translated

TIMEOUT = 10.0  # seconds until the API server answers


async def read_logs(
    key: str, *, kubeconfig: Path | None, context: str | None, tail: int, follows: bool
) -> AsyncIterator[tuple[str, str]]:
    """Pod and line, of all pods that there are now; `tail` < 0: from the beginning.

    Needs the rights to list pods and to get pods/log in the namespace. LogsError, StartError.
    """
    namespace, name = key.split("/")
    configuration = await load_configuration(kubeconfig, context)
    async with Client(configuration, may_write=lambda: None, answered=lambda *_: None) as api:
        core = client.CoreV1Api(api)
        try:
            pods = await _pods(core, namespace, name)
            if not pods:
                raise LogsError(f"no worker of {key} exists: `modelfleet explain {key}` says why")
            if not follows:
                for pod in pods:
                    async for line in _lines(core, namespace, pod, tail, follows=False):
                        yield pod, line
                return
            async for pod_and_line in _merged(core, namespace, pods, tail):
                yield pod_and_line
        except (PassingError, RejectedError) as error:
            raise LogsError(str(error)) from error


async def _pods(core: Any, namespace: str, name: str) -> list[str]:
    request = core.list_namespaced_pod_without_preload_content(
        namespace, label_selector=selector(name), _request_timeout=TIMEOUT
    )
    with translated(f"listing the worker pods of {namespace}/{name}"):
        found = json.loads(await answer(request))
    return sorted(pod["metadata"]["name"] for pod in found["items"])


async def _lines(
    core: Any, namespace: str, pod: str, tail: int, *, follows: bool
) -> AsyncIterator[str]:
    options: dict[str, Any] = {} if tail < 0 else {"tail_lines": tail}
    if not follows:
        options["_request_timeout"] = TIMEOUT
    request = core.read_namespaced_pod_log_without_preload_content(
        pod, namespace, container=WORKER, follow=follows, **options
    )
    with translated(f"reading the log of pod {namespace}/{pod}"):
        response: aiohttp.ClientResponse = await request
        async with response:
            if response.status >= 400:
                raise client.ApiException(
                    status=response.status, reason=response.reason, body=await response.text()
                )
            rest = b""
            async for part in response.content.iter_any():
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    yield line.decode(errors="replace")
            if rest:
                yield rest.decode(errors="replace")


async def _merged(
    core: Any, namespace: str, pods: list[str], tail: int
) -> AsyncIterator[tuple[str, str]]:
    """Of all pods as they come, until the last one ended."""
    queue: asyncio.Queue[tuple[str, str] | None] = asyncio.Queue(maxsize=1000)

    async def pump(pod: str) -> None:
        try:
            async for line in _lines(core, namespace, pod, tail, follows=True):
                await queue.put((pod, line))
        finally:
            await queue.put(None)

    pumps = [asyncio.create_task(pump(pod)) for pod in pods]
    try:
        running = len(pumps)
        while running:
            found = await queue.get()
            if found is not None:
                yield found
                continue
            running -= 1
        for task in pumps:
            await task  # raises why it ended
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

"""Runs the operator on a cluster: kopf watches, reconcilers decide, the Fleet service speaks."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import kopf
import structlog
from kubernetes.aio import client

from ..errors import ModelfleetError, StartError
from ..fleet import Fleet, serve
from ..reconciler import Reconcilers
from .api import ClusterApi
from .body import ClusterBody
from .connection import load_configuration
from .handlers import REGISTRY
from .memo import OperatorMemo
from .options import OperatorOptions

FIRST_LOOK = 2.0  # seconds between asking whether there is anything to wait for
GRACE = 2.0  # seconds that gateways' streams get when the operator ends

log = structlog.get_logger()


def run_operator(options: OperatorOptions) -> None:
    """Until SIGTERM or SIGINT. StartError if it cannot begin."""
    asyncio.run(_until_signalled(options))


async def _until_signalled(options: OperatorOptions) -> None:
    stop = asyncio.Event()
    await operate(options, stop, lambda address: _take_signals(stop))


def _take_signals(stop: asyncio.Event) -> None:
    # Taken back from kopf, whose own handler would cancel reconcilers in the middle of a write.
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def operate(
    options: OperatorOptions, stop: asyncio.Event, started: Callable[[str], None]
) -> None:
    """Until `stop` is set; `started` is told the Fleet service's HOST:PORT once all is running."""
    configuration = await load_configuration(options.kubeconfig)
    async with client.ApiClient(configuration) as api_client:
        api = ClusterApi(api_client)
        body = ClusterBody(api, options.pods, time.time)
        fleet = Fleet(
            time.time,
            wake=lambda key: reconcilers.wake(key),  # noqa: PLW0108  it is made below
            wake_all=lambda: reconcilers.wake_all(),  # noqa: PLW0108
        )
        reconcilers = Reconcilers(body, fleet, time.time)
        memo = OperatorMemo(body=body, reconcilers=reconcilers, kubeconfig=options.kubeconfig)
        ready, kopf_stop = asyncio.Event(), asyncio.Event()
        watching = asyncio.create_task(_watch(options, memo, ready, kopf_stop))
        try:
            await _first_of(ready.wait(), watching)
            async with _serving(fleet, options.fleet_listen) as address:
                started(address)
                log.info("watching", fleet=address, namespaces=options.namespaces or "all")
                await _first_of(stop.wait(), watching, _lead(api, options, memo, fleet))
        finally:
            # Last, because kopf ends by cancelling every task that is younger than itself.
            kopf_stop.set()
            await asyncio.wait([watching])


async def _watch(
    options: OperatorOptions, memo: OperatorMemo, ready: asyncio.Event, stop: asyncio.Event
) -> None:
    await kopf.operator(
        registry=REGISTRY,
        memo=memo,
        standalone=True,
        clusterwide=not options.namespaces,
        namespaces=options.namespaces,
        ready_flag=ready,
        stop_flag=stop,
    )
    if not stop.is_set():
        raise StartError("watching the cluster ended; the log says why")


async def _lead(
    api: ClusterApi, options: OperatorOptions, memo: OperatorMemo, fleet: Fleet
) -> None:
    """Decides for the cluster. A Lease will say when, and its transitions will be the term."""
    await _indices_are_complete(api, options.namespaces, memo.first_event)
    fleet.lead(0, memo.body.keys())
    await memo.reconcilers.run()


async def _indices_are_complete(
    api: ClusterApi, namespaces: Iterable[str], first_event: asyncio.Event
) -> None:
    """Acting on half an index would create pods that exist already under other ordinals.

    kopf calls event handlers only once all indices are complete, so the first event says it; and
    where there is no object, there is nothing to wait for.
    """
    while not first_event.is_set():
        try:
            if not await api.has_deployments(namespaces):
                return
        except ModelfleetError as error:
            log.warning("cannot list ModelDeployments yet", error=str(error))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK):
                await first_event.wait()


async def _first_of(*awaitables: Any) -> None:
    """Waits for one of them, cancels the others but those that are tasks, raises its error."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        ours = [task for task in tasks if task not in awaitables]
        for task in ours:
            task.cancel()
        await asyncio.gather(*ours, return_exceptions=True)  # cancelled, or raised above


@contextlib.asynccontextmanager
async def _serving(fleet: Fleet, listen: str) -> AsyncIterator[str]:
    host, _, _ = listen.rpartition(":")
    try:
        server, port = await serve(fleet, listen)
    except RuntimeError as error:
        raise StartError(
            f"expected to listen on {listen}: is the port taken, is the address ours? ({error})"
        ) from error
    try:
        yield f"{host}:{port}"
    finally:
        # If kopf ended by itself, it has cancelled the server's task: that is no news.
        await asyncio.gather(server.stop(GRACE), return_exceptions=True)

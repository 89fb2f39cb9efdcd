"""Runs the operator on a cluster: kopf watches, reconcilers decide, the Fleet service speaks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, NoReturn

import kopf
import structlog

from modelfleet_process.addresses import join_address, split_address

from ..api.model_deployment import GROUP
from ..errors import ModelfleetError, StartError
from ..fleet.issuing import Issuing
from ..fleet.service import FleetService, serve
from ..metrics import Metrics
from ..pools import PoolKeeper
from ..reconciler import Reconcilers
from .api import ClusterApi
from .api_keys import KeyWatch
from .body import ClusterBody
from .connection import Client, load_configuration
from .discovery import Discovery
from .environment import DiscreetGateways
from .garbage import collect_rarely
from .handlers import registry
from .lease import Elector, Fence, raise_lost
from .memo import OperatorMemo
from .options import OperatorOptions
from .probes import probes
from .secure_ports import SecurePorts
from .sweep import Sweeper

FIRST_LOOK = 2.0  # seconds between asking whether there is anything to wait for
GRACE = 2.0  # seconds that gateways' streams get when the operator ends

log = structlog.get_logger()


def run_operator(options: OperatorOptions) -> None:
    """Until SIGTERM or SIGINT. StartError if it cannot begin."""
    asyncio.run(_until_signalled(options))


async def _until_signalled(options: OperatorOptions) -> None:
    stop = asyncio.Event()
    fence = Fence(_end_at_once)
    # Python runs this before anything else that a stopped process would go on with.
    signal.signal(signal.SIGCONT, lambda *_: fence.resumed())
    await operate(options, stop, lambda address: _take_signals(stop), fence)


def _end_at_once(message: str) -> NoReturn:
    """Without cleaning up: a replica that lost its Lease must send nothing more."""
    print(message, file=sys.stderr, flush=True)  # noqa: T201  for the reader of the pod's log
    os._exit(1)


def _take_signals(stop: asyncio.Event) -> None:
    # Taken back from kopf, whose own handler would cancel reconcilers in the middle of a write.
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def operate(
    options: OperatorOptions,
    stop: asyncio.Event,
    started: Callable[[str], None],
    fence: Fence | None = None,
) -> None:
    """Until `stop` is set; `started` is told the Fleet service's HOST:PORT once all is running.

    LeadershipLostError if the Lease could not be renewed, unless `fence` has another way to end.
    """
    fence = fence or Fence(raise_lost)
    configuration = await load_configuration(options.kubeconfig)
    metrics = Metrics()
    metrics.leader.set_function(lambda: fence.leads)
    async with contextlib.AsyncExitStack() as stack:
        connect = _Connections(configuration, metrics, stack)
        api_client = await connect(fence.check)
        discovery = Discovery(api_client)
        issuing = Issuing(options.tls.lifetimes) if options.tls else None
        api = ClusterApi(api_client)
        body = ClusterBody(api, options.pods, time.time, options.endpoint, fence.check, issuing)
        fleet = FleetService(
            time.time,
            wake=lambda key: reconcilers.wake(key),  # noqa: PLW0108  it is made below
            wake_all=lambda: reconcilers.wake_all(),  # noqa: PLW0108
        )
        gateways = DiscreetGateways(fleet, body.cache.variables)
        reconcilers = Reconcilers(body, gateways, time.time, metrics=metrics)
        memo = OperatorMemo(
            body=body,
            reconcilers=reconcilers,
            keeper=PoolKeeper(body.pools, body.pools.ledger, time.time, metrics),
            kubeconfig=options.kubeconfig,
        )
        is_warm = asyncio.Event()
        await stack.enter_async_context(
            probes(options.metrics_listen, metrics.registry, is_warm.is_set, reconcilers.snapshot)
        )
        # The Lease has a connection of its own: nothing queues before a renewal.
        lease_client = await connect(lambda: None)
        ready, kopf_stop = asyncio.Event(), asyncio.Event()
        await _crds_are_installed(discovery)
        handlers = await _permitted_handlers(discovery, options)
        watching = asyncio.create_task(_watch(options, memo, handlers, ready, kopf_stop))
        try:
            await _first_of(ready.wait(), watching)
            plaintext = options.tls is None or options.tls.accepts_plaintext
            async with _serving(fleet, options.fleet_listen, plaintext=plaintext) as address:
                started(address)
                log.info("watching", fleet=address, namespaces=options.namespaces or "all")
                elector = Elector(
                    lease_client,
                    namespace=options.lease_namespace,
                    name=options.lease_name,
                    identity=f"{socket.gethostname()}@{options.advertise or address}",
                    fence=fence,
                    seen=lambda holder: fleet.follow(holder.partition("@")[2]),
                    pace=options.lease_pace,
                    note=reconcilers.names_of_deleted,
                )
                sweeper = Sweeper(api_client, options.namespaces, body.uids, memo.deletion_missed)
                memo.listed_anew = sweeper.ask
                keys = KeyWatch(
                    api_client,
                    api,
                    (options.lease_namespace, *options.key_namespaces),
                    fleet.publish_keys,
                )
                work = _work(discovery, options, memo, fleet, elector, sweeper, is_warm, keys)
                ends = [stop.wait(), watching, work, keys.run(), collect_rarely()]
                if options.tls is not None and issuing is not None:
                    ports = SecurePorts(
                        options, options.tls, issuing, lambda: fence.leads, time.time
                    )
                    # Any replica asks whose a token is, whether it leads or not.
                    reviewer = await connect(lambda: None)
                    ends.append(ports.run(api_client, reviewer, fleet))
                await _first_of(*ends)
        finally:
            # Last, because kopf ends by cancelling every task that was started after it.
            kopf_stop.set()
            await asyncio.wait([watching])


class _Connections:
    """Makes clients that count what they ask."""

    def __init__(
        self, configuration: Any, metrics: Metrics, stack: contextlib.AsyncExitStack
    ) -> None:
        self._configuration, self._metrics, self._stack = configuration, metrics, stack

    async def __call__(self, may_write: Callable[[], None]) -> Client:
        made = Client(self._configuration, may_write=may_write, answered=self._metrics.answered)
        return await self._stack.enter_async_context(made)


async def _permitted_handlers(
    discovery: Discovery, options: OperatorOptions
) -> kopf.OperatorRegistry:
    """The handlers of what this operator has the right to watch; asked until it is known."""
    while True:
        try:
            nodes = await discovery.may_watch_nodes()
            budgets = options.pods.disruption_budgets and await discovery.may_watch_budgets(
                options.namespaces
            )
            evictions = await discovery.may_watch_evictions(options.namespaces)
        except ModelfleetError as error:
            log.warning("cannot ask for the operator's rights yet", error=str(error))
            await asyncio.sleep(FIRST_LOOK)
            continue
        if not nodes:
            log.warning(
                "no right to watch nodes: what they say before they go is not heard, only what "
                "happens to pods; give the operator list and watch on nodes"
            )
        if options.pods.disruption_budgets and not budgets:
            log.warning(
                "no right to watch poddisruptionbudgets: none are kept for workers; give the "
                "operator get, list, watch, create and patch on them"
            )
        return registry(nodes=nodes, budgets=budgets, evictions=evictions)


async def _watch(
    options: OperatorOptions,
    memo: OperatorMemo,
    handlers: kopf.OperatorRegistry,
    ready: asyncio.Event,
    stop: asyncio.Event,
) -> None:
    await kopf.operator(
        registry=handlers,
        memo=memo,
        standalone=True,
        clusterwide=not options.namespaces,
        namespaces=options.namespaces,
        ready_flag=ready,
        stop_flag=stop,
    )
    if not stop.is_set():
        raise StartError("watching the cluster ended; the log says why")


async def _work(
    discovery: Discovery,
    options: OperatorOptions,
    memo: OperatorMemo,
    fleet: FleetService,
    elector: Elector,
    sweeper: Sweeper,
    is_warm: asyncio.Event,
    keys: KeyWatch,
) -> None:
    """Stands by with all that it needs to know, then decides for the cluster."""
    await _indices_are_complete(discovery, options.namespaces, memo.first_event)
    await keys.is_known.wait()  # a view without them would refuse everybody
    is_warm.set()
    term = await elector.acquire()
    memo.reconcilers.inherit_names(elector.inherited)
    log.info("leading", term=term)
    try:
        await _first_of(_lead(term, memo, fleet, sweeper), elector.keep())
    finally:
        fleet.end()
        await elector.release()


async def _lead(term: int, memo: OperatorMemo, fleet: FleetService, sweeper: Sweeper) -> None:
    # A view that lacks a deployment tells gateways that it does not exist.
    await sweeper.compare()
    fleet.lead(term, memo.body.keys())
    await _first_of(memo.reconcilers.run(), memo.keeper.run(), sweeper.run())


async def _crds_are_installed(discovery: Discovery) -> None:
    """Waits for the CRDs: kopf watches only what is served when it starts."""
    told: frozenset[str] = frozenset()
    while True:
        try:
            missing = await discovery.missing_resources()
        except ModelfleetError as error:
            log.warning("cannot ask for the CRDs yet", error=str(error))
        else:
            if not missing:
                return
            if missing != told:
                log.warning(
                    "waiting for CRDs: install the chart's",
                    missing=[f"{plural}.{GROUP}" for plural in sorted(missing)],
                )
            told = missing
        await asyncio.sleep(FIRST_LOOK)


async def _indices_are_complete(
    discovery: Discovery, namespaces: Iterable[str], first_event: asyncio.Event
) -> None:
    """Acting on half an index would create pods that exist already under other ordinals.

    kopf calls event handlers only once all indices are complete, so the first event says it; and
    where there is no object, there is nothing to wait for.
    """
    while not first_event.is_set():
        try:
            if not await discovery.has_deployments(namespaces):
                return
        except ModelfleetError as error:
            log.warning("cannot list ModelDeployments yet", error=str(error))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK):
                await first_event.wait()


async def _first_of(*awaitables: Any) -> None:
    """Waits for the first to end, raises its error, and cancels the others that are no tasks."""
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
async def _serving(fleet: FleetService, listen: str, *, plaintext: bool) -> AsyncIterator[str]:
    """Without plaintext there is no port: gateways come to those of SecurePorts."""
    if not plaintext:
        yield listen
        return
    host, _ = split_address(listen)
    try:
        server, port = await serve(fleet, listen)
    except RuntimeError as error:
        raise StartError(
            f"expected to listen on {listen}: is the port taken, is the address ours? ({error})"
        ) from error
    try:
        yield join_address(host, port)
    finally:
        # If kopf ended by itself, it has cancelled the server's task: that is no news.
        await asyncio.gather(server.stop(GRACE), return_exceptions=True)

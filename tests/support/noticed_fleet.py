"""A local fleet in the test's own event loop, whose workers can be told that they are about to go.

Gateway and workers are processes, as under `modelfleet up`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from clients import tls
from gateway_processes import GatewayProcess, gateway_process
from modelfleet_operator.api.manifests import load_manifests
from modelfleet_operator.decisions.interruption import Notice
from modelfleet_operator.decisions.observed import Worker
from modelfleet_operator.fleet.service import FleetService, serve
from modelfleet_operator.local.body import LocalBody
from modelfleet_operator.local.deployments import LocalDeployments
from modelfleet_operator.local.state import StateDirectory
from modelfleet_operator.local.worker_process import WorkerOptions
from modelfleet_operator.reconciler import Reconcilers


@dataclass
class NoticedFleet:
    """One deployment and what runs of it."""

    key: str
    body: LocalBody
    fleet: FleetService
    gateway: GatewayProcess
    probes: httpx.AsyncClient  # of the gateway

    def workers(self) -> list[Worker]:
        seen = self.body.observe(self.key)
        return list(seen.workers) if seen is not None else []

    def ready(self) -> list[Worker]:
        """Those that the gateway would route to, with no notice."""
        signals = self.fleet.signals(self.key)
        return [w for w in self.workers() if signals.is_ready(w.id) and w.notice is None]

    def taken(self, worker: Worker) -> int:
        """Requests that it has of the gateway."""
        gateways = self.fleet.signals(self.key).gateways
        return sum(gateway.taken.get(worker.id, 0) for gateway in gateways)

    async def counted(self, metric: str) -> float:
        """The sum of a counter of the gateway over its labels; 0: nothing was counted."""
        text = (await self.probes.get("/metrics")).raise_for_status().text
        assert f"# TYPE {metric} counter" in text, f"the gateway has no counter {metric}"
        lines = [line for line in text.splitlines() if line.startswith(f"{metric}{{")]
        return sum(float(line.split()[-1]) for line in lines)

    def tell(self, worker: Worker, notice: Notice) -> None:
        self.body.notify(worker.id, notice)


@dataclass
class _Address:
    address: str


@contextlib.asynccontextmanager
async def noticed_fleet(
    folder: Path, manifest: dict[str, Any], *flags: str, drain_timeout: float = 60.0
) -> AsyncIterator[NoticedFleet]:
    """`flags` are the workers'; everything has ended when the block does."""
    file = folder / "model.yaml"
    file.write_text(yaml.safe_dump(manifest))
    deployments = LocalDeployments(flags, drain_timeout)
    deployments.apply(load_manifests([file]), time.time())
    (key,) = deployments.keys()
    with StateDirectory(folder / "state").held() as state:
        body = LocalBody(
            deployments,
            WorkerOptions(drain_timeout=drain_timeout),
            state,
            wake=lambda key: reconcilers.wake(key),  # noqa: PLW0108  it is made below
            show=lambda name, line: None,
        )
        fleet = FleetService(
            time.time,
            wake=lambda key: reconcilers.wake(key),  # noqa: PLW0108
            wake_all=lambda: reconcilers.wake_all(),  # noqa: PLW0108
        )
        reconcilers = Reconcilers(body, fleet, time.time)
        fleet.lead(1, body.keys())
        server, port = await serve(fleet, "127.0.0.1:0")
        reconciling = asyncio.create_task(reconcilers.run())
        operator: Any = _Address(f"127.0.0.1:{port}")
        at = folder / "metrics.address"
        listen = ("--metrics-listen", "127.0.0.1:0", "--metrics-address-file", str(at))
        try:
            async with (
                gateway_process(operator, folder, *listen) as gateway,
                httpx.AsyncClient(base_url=f"http://{at.read_text()}", verify=tls()) as probes,
            ):
                yield NoticedFleet(key, body, fleet, gateway, probes)
        finally:
            reconciling.cancel()
            await asyncio.wait([reconciling])
            body.kill()
            await body.end()
            await server.stop(0)
